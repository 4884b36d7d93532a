import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import linear_context, make_model
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.open_queries import IDLE_WAKES, OpenQueries, PolicyError, stall
from veltair.serving.loop.policy import Allocation, Rejection, Resize, Snapshot, Wake, Yield
from veltair.serving.loop.query import Query

CONTEXT = linear_context([0.001] * 3)  # "net", on 8 cores
ONE, OTHER = Query(1, "net", 0.0, 0.01), Query(2, "net", 0.5, 0.01)


class Silent:
    """A policy whose name is in the messages."""

    def allocate(self, snapshot: Snapshot) -> list[Allocation]:
        """Never asked here."""
        return []


@pytest.fixture
def books() -> OpenQueries:
    """One query that waits, with all cores free."""
    found = OpenQueries(Silent(), CONTEXT)
    found.admit(ONE)
    return found


def start(query_id: int = 1, first: int = 0, stop: int = 3, cores: int = 2) -> Allocation:
    return Allocation(query_id, LayerBlock("net", first, stop), (0,) * (stop - first), cores)


def waiting(books: OpenQueries) -> list[tuple[int, int]]:
    return [(entry.query.id, entry.next_layer) for entry in books.pending]


def test_a_query_waits_runs_and_leaves_and_its_cores_come_back(books: OpenQueries) -> None:
    assert waiting(books) == [(1, 0)]
    books.obey(start(cores=5), 0.0)
    assert (waiting(books), books.free_cores, [run.query.id for run in books.running_view]) == ([], 3, [1])
    assert books.end_block(1, 3)
    assert (books.free_cores, len(books.running)) == (8, 0)


def test_between_two_blocks_a_query_waits_at_its_next_layer(books: OpenQueries) -> None:
    books.obey(start(stop=2), 0.0)
    assert not books.end_block(1, 2)
    assert waiting(books) == [(1, 2)]


def test_a_rejected_query_is_gone(books: OpenQueries) -> None:
    books.obey(Rejection(1, "late"), 0.0)
    assert waiting(books) == []


def test_a_growing_block_reserves_cores_at_once_and_a_shrinking_one_gives_them_up_when_it_adopts(
    books: OpenQueries,
) -> None:
    books.obey(start(cores=2), 0.0)
    books.obey(Resize(1, 6), 0.0)
    assert books.free_cores == 2
    books.adopt(1, 6)
    books.obey(Resize(1, 1), 0.0)
    assert books.free_cores == 2
    books.adopt(1, 1)
    assert books.free_cores == 7


def test_a_block_that_yields_ends_early_with_all_of_its_cores(books: OpenQueries) -> None:
    books.obey(start(), 0.0)
    books.obey(Yield(1), 0.0)
    assert books.running[1].yields
    assert not books.end_block(1, 1)
    assert (waiting(books), books.free_cores) == ([(1, 1)], 8)


def test_all_is_forgotten_at_once(books: OpenQueries) -> None:
    books.admit(OTHER)
    books.obey(start(), 0.0)
    books.clear()
    assert (waiting(books), len(books.running)) == ([], 0)


def test_a_query_arrives_once_and_of_a_model_that_is_served(books: OpenQueries) -> None:
    with pytest.raises(ValueError, match="query 1 arrived twice"):
        books.admit(ONE)
    with pytest.raises(LookupError, match="query 3 asks for other, which this run does not serve"):
        books.admit(Query(3, "other", 0.0, 0.01))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (start(7), "Silent answers for query 7, which is not waiting"),
        (Rejection(7, ""), "Silent answers for query 7, which is not waiting"),
        (start(cores=9), "Silent gives 9 cores to query 1, but 8 of 8 are free"),
        (start(first=1), "Silent starts .* for query 1, whose next layer is 0 of 3 of net"),
        (start(stop=4), "Silent starts .* for query 1, whose next layer is 0 of 3"),
        (Resize(1, 2), "Silent resizes query 1, which is not running"),
        (Yield(1), "Silent yields query 1, which is not running"),
        (Wake(0.5), "Silent asks at 0.5 s to be woken at 0.5 s; name a later time"),
        (Wake(float("nan")), "Silent asks at 0.5 s to be woken at nan s"),
        ("run", "Silent answered 'run'; return Allocation, Resize, Yield, Rejection, Wake, Load or Evict"),
    ],
)
def test_an_answer_that_breaks_the_contract_names_the_policy(
    books: OpenQueries, answer: Allocation, message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        books.obey(answer, 0.5)


@pytest.mark.parametrize(
    ("before", "answer", "message"),
    [
        ([Yield(1)], Yield(1), "yields query 1 twice"),
        ([Yield(1)], Resize(1, 3), "resizes query 1, which yields"),
        ([Resize(1, 4)], Resize(1, 3), "takes back cores from query 1, which is growing from 2 to 4"),
        ([], Resize(1, 9), "gives 7 cores to query 1, but 6 of 8 are free"),
        ([], Resize(1, 2, (0,)), "resizes query 1 with 1 versions for 3 layers"),
    ],
)
def test_a_running_block_cannot_be_changed_against_the_contract(
    books: OpenQueries, before: list[Resize], answer: Resize, message: str
) -> None:
    books.obey(start(), 0.0)
    for one in before:
        books.obey(one, 0.0)
    with pytest.raises(PolicyError, match=message):
        books.obey(answer, 0.0)


@pytest.mark.parametrize("next_layer", [0, 3])
def test_a_backend_that_ends_a_block_elsewhere_is_refused(books: OpenQueries, next_layer: int) -> None:
    books.obey(start(stop=2), 0.0)
    with pytest.raises(RuntimeError, match=f"ended .* of query 1 before layer {next_layer}; .* from 1 to 2"):
        books.end_block(1, next_layer)


def test_a_policy_that_is_woken_for_nothing_again_and_again_is_ended(books: OpenQueries) -> None:
    for _ in range(IDLE_WAKES - 1):
        books.check_idle(was_woken=True)
    books.check_idle(was_woken=False)  # something happened, so that it counts anew
    for _ in range(IDLE_WAKES - 1):
        books.check_idle(was_woken=True)
    with pytest.raises(
        PolicyError, match=r"Silent waits for ever: 1 queries wait \(the oldest is 1, a net\)"
    ):
        books.check_idle(was_woken=True)


def test_a_policy_that_leaves_queries_waiting_is_named() -> None:
    text = str(stall(Silent(), 2, ONE, 8))
    assert text.startswith("Silent stalls: 2 queries wait (the oldest is 1, a net), 8 cores are free")


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 2**32 - 1))
def test_cores_are_neither_lost_nor_made(kinds: list[int], seed: int) -> None:
    books = OpenQueries(Silent(), linear_context([0.001] * 4))
    pick = iter(range(seed, seed + 1000))
    for number, kind in enumerate(kinds):
        runs = list(books.running.values())
        if kind == 0:
            books.admit(Query(number, make_model().name, 0.0, 0.01))
        elif kind == 1 and books.pending and books.free_cores:
            query, layer = books.pending[0]
            cores = 1 + next(pick) % books.free_cores
            books.obey(Allocation(query.id, LayerBlock("net", layer, 4), (0,) * (4 - layer), cores), 0.0)
        elif kind == 2 and runs and runs[0].cores == runs[0].target_cores:
            books.obey(Resize(runs[0].query.id, 1 + next(pick) % (runs[0].cores + books.free_cores)), 0.0)
        elif kind == 3 and runs:
            books.end_block(runs[0].query.id, runs[0].block.start + 1)
        held = sum(run.reserved_cores for run in books.running.values())
        assert books.free_cores + held == 8
