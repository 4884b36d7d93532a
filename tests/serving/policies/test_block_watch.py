from tests.support.builders import make_model, pending, running, snapshot
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.policies.block_watch import BlockWatch, Stretch

NET = make_model("net", (1, 1, 1))


def watch_of(cores: int = 4, first: int = 0) -> BlockWatch:
    """Return one that saw query 1 start at 1 s."""
    watch = BlockWatch({"net": 3})
    watch.start(Allocation(1, LayerBlock("net", first, 3), (0,) * (3 - first), cores), 1.0)
    return watch


def test_a_query_that_ended_ran_all_its_layers_on_the_cores_that_it_had() -> None:
    record = QueryRecord(Query(1, "net", 0.0, 9.0), Ending.SERVED, 1.0, 3.0, 1, 0, 8.0)
    sees = snapshot(8, time_s=3.0)
    sees.ended = (record,)
    watch = watch_of()
    assert list(watch.see(sees)) == [Stretch("net", 0, 3, 4, 2.0)]
    assert list(watch.see(snapshot(8, time_s=4.0))) == []


def test_a_query_that_was_paused_ran_the_layers_before_its_next() -> None:
    sees = snapshot(8, [pending(1, NET, next_layer=2), pending(2, NET)], time_s=3.0)
    assert list(watch_of(first=1).see(sees)) == [Stretch("net", 1, 2, 4, 2.0)]


def test_a_change_of_cores_ends_a_stretch_and_begins_one() -> None:
    watch = watch_of()
    assert list(watch.see(snapshot(4, [], [running(1, NET, 4)], time_s=2.0))) == []
    grown = snapshot(0, [], [running(1, NET, 8)], time_s=3.0, progress={1: 1})
    assert list(watch.see(grown)) == [Stretch("net", 0, 1, 4, 2.0)]
    paused = snapshot(8, [pending(1, NET, next_layer=2)], time_s=3.5)
    assert list(watch.see(paused)) == [Stretch("net", 1, 2, 8, 0.5)]
