from dataclasses import replace

from veltair.compiler.footprint.traffic import Tiling
from veltair.machine.contention.layer_demand import LayerDemand
from veltair.machine.contention.older_queries import OlderQueries
from veltair.machine.costs.cost_model import LayerCostModel
from veltair.machine.topology.topology import Machine

MACHINE = Machine("toy", 1, ((0, 1), (2, 3), (4, 5), (6, 7)), 1, 100, 1.0, 100.0, False)


def demand(tiling: Tiling) -> LayerDemand:
    return LayerDemand((0.0,), (1.0,), (0.0,), 0.0, 0.0, LayerCostModel(1.0, tiling))


def test_weights_are_there_by_the_bytes_that_were_moved_since_their_last_use() -> None:
    # 400 bytes of L3 in all.
    older, layer = OlderQueries(MACHINE), demand(Tiling(1, 80, 80))
    assert older.use("m", 0, layer, 1) == 0.0
    older.move(200.0)
    assert older.use("m", 0, layer, 1) == 1.0
    older.move(1600.0)
    assert older.use("m", 1, layer, 1) == 0.0
    assert older.use("m", 0, layer, 1) == 0.25
    assert older.use("m", 0, layer, 1) == 1.0


def test_weights_in_several_caches_are_there_for_a_shorter_time() -> None:
    older, layer = OlderQueries(MACHINE), demand(Tiling(4, 100, 100))
    older.use("m", 0, layer, 2)
    older.move(400.0)
    assert older.use("m", 0, layer, 2) == 0.5


def test_by_the_table_nothing_is_said_of_older_queries() -> None:
    layer = replace(demand(Tiling(1, 80, 80)), cost_model=None)
    assert OlderQueries(MACHINE).use("m", 0, layer, 1) == 1.0
