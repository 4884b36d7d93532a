from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import linear_context, pending, random_queries, run_to_end, snapshot
from veltair.compiler.frontend.model import LayerBlock
from veltair.evaluation.measurement.equal_blocks import EqualBlocks
from veltair.serving.loop.policy import Allocation
from veltair.serving.loop.query import Ending
from veltair.serving.policies.native_spec import DecisionKind

CONTEXT = linear_context([0.001] * 5)
(NET,) = CONTEXT.models.values()


def starts(policy: EqualBlocks, free_cores: int, *waiting: tuple[int, int]) -> list[Allocation]:
    """Return what starts of queries that wait, each an id and its next layer."""
    entries = [pending(query_id, NET, next_layer=layer) for query_id, layer in waiting]
    answers = policy.allocate(snapshot(free_cores, entries))
    assert all(isinstance(answer, Allocation) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Allocation)]


def test_the_oldest_queries_get_equal_blocks_while_cores_are_free() -> None:
    found = starts(EqualBlocks(CONTEXT, layers=2, cores=3), 8, (0, 0), (1, 2), (2, 0))
    assert [(one.query_id, one.block, one.cores) for one in found] == [
        (0, LayerBlock("net", 0, 2), 3),
        (1, LayerBlock("net", 2, 4), 3),
    ]


def test_the_last_block_has_the_layers_that_are_left() -> None:
    (found,) = starts(EqualBlocks(CONTEXT, layers=2, cores=1), 8, (0, 4))
    assert found.block == LayerBlock("net", 4, 5)


def test_a_block_never_starts_on_fewer_cores() -> None:
    assert starts(EqualBlocks(CONTEXT, layers=2, cores=4), 3, (0, 0)) == []


def test_c_decides_by_the_same_blocks() -> None:
    spec = EqualBlocks(CONTEXT, layers=3, cores=2).native_spec()
    assert spec.kind is DecisionKind.BLOCKS and spec.form is not None
    proposal = spec.form("net", 3, 0)
    assert (proposal.block, proposal.cores) == (LayerBlock("net", 3, 5), 2)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 100))
def test_every_query_is_served_in_as_many_blocks_as_its_layers_make(
    layers: int, cores: int, seed: int
) -> None:
    records = run_to_end(EqualBlocks(CONTEXT, layers, cores), CONTEXT, random_queries(CONTEXT, 10, seed))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert {record.blocks for record in records} == {-(-5 // layers)}
