import numpy as np

from tests.support.builders import make_context, make_machine, make_model, pending
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Pending
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.slices import SliceTimes, start_in_slices

NET = make_model(macs=(1, 1))
# Layer 0 is fastest on 4 cores, layer 1 on 1, both together on 2.
SECONDS = np.array([[0.009, 0.004, 0.003], [0.001, 0.003, 0.007]])[:, None, :, None]
CONTEXT = make_context({"net": SECONDS}, [NET], cores=(1, 2, 4), machine=make_machine(4))
TIMES = SliceTimes(LatencyTables(CONTEXT, VersionRule.SOLO_ALONE))
WHOLE, FIRST = LayerBlock("net", 0, 2), LayerBlock("net", 0, 1)


def starts(waiting: list[Pending], *, free_cores: int = 4, busy: tuple[int, ...] = (), sizes=(2, 2)):
    """Return query, cores and wanted cores of the starts; query N belongs to slice N modulo their number."""
    found = start_in_slices(
        waiting,
        free_cores,
        busy,
        sizes,
        TIMES,
        slice_of=lambda entry: entry.query.id % len(sizes),
        block_of=lambda entry: FIRST,
    )
    return [(start.query_id, start.cores, start.wanted_cores) for start in found]


def test_a_block_takes_the_least_time_of_the_counts_that_a_slice_has() -> None:
    assert [TIMES.best_cores(WHOLE, most) for most in (1, 2, 3, 4)] == [1, 2, 2, 2]
    assert [TIMES.best_cores(FIRST, most) for most in (1, 3, 4)] == [1, 2, 4]
    assert TIMES.least_s(FIRST, 3) == 0.004


def test_no_count_is_so_small_as_a_slice_of_nothing() -> None:
    assert (TIMES.best_cores(WHOLE, 0), TIMES.least_s(WHOLE, 0)) == (0, float("inf"))


def test_each_idle_slice_starts_the_first_query_that_waits_for_it() -> None:
    waiting = [pending(number, NET) for number in (1, 3, 2, 4)]
    assert starts(waiting) == [(1, 2, 2), (2, 2, 2)]
    assert starts(waiting, busy=(1,), free_cores=2) == [(2, 2, 2)]
    assert starts(waiting, busy=(0, 1), free_cores=0) == []


def test_a_slice_whose_cores_are_not_free_yet_starts_on_what_is() -> None:
    waiting = [pending(0, NET), pending(1, NET)]
    assert starts(waiting, free_cores=3) == [(0, 2, 2), (1, 1, 2)]
    assert starts(waiting, free_cores=2) == [(0, 2, 2)]
