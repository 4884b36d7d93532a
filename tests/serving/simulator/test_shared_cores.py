"""Blocks that share cores, and blocks that may draw a part of the memory only: worked by hand."""

from dataclasses import dataclass, replace
from math import inf

import numpy as np
import pytest

from baselines.moca import Moca
from baselines.oversubscribed import Oversubscribed
from tests.support.builders import make_machine
from tests.support.contended_builders import contended_context, random_cost_model
from tests.support.schedulers import made, serving
from tests.support.sim_builders import Cost, allocation, context, cost_table, trace
from veltair.compiler.footprint.traffic import Tiling
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.costs.cost_model import LayerCostModel, MachineCostModel
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.open_queries import PolicyError
from veltair.serving.loop.policy import Allocation, Answer, Context, Resize, Snapshot
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

# On c of 4 cores a layer of "m" takes 4 / c s, and draws half of the 100 bytes/s of the toy machine.
HALF = {"m": [[Cost(4.0, dram_share=0.5)]] * 2}


@dataclass
class Eager:
    """Starts every query whole at once, as it is told."""

    cores: int = 4
    shares_cores: bool = True
    bytes_per_s: float | None = None

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        return [self._start(entry.query) for entry in snapshot.pending]

    def _start(self, query: Query) -> Allocation:
        start = allocation(query.id, query.model, (0, 2), self.cores)
        return replace(start, dram_bytes_per_s=self.bytes_per_s, shares_cores=self.shares_cores)


def simulator_of(served: Context, arrivals: list[Query], core: str = "c", **inputs) -> Simulator:
    noise = noise_batches(arrivals, served, np.random.default_rng(0))
    return Simulator(arrivals, served, noise, **{"drain_s": 100.0, "core": core, **inputs})


def records(policy, served: Context, arrivals: list[Query], core: str = "c", **inputs) -> list[QueryRecord]:
    found = list(serve_simulated(policy, served, simulator_of(served, arrivals, core, **inputs)))
    return sorted(found, key=lambda record: record.query.id)


@pytest.mark.parametrize("core", ["c", "python"])
def test_two_that_share_all_cores_take_twice_as_long_and_hold_half_of_them_each(core):
    served = context({"m": [[Cost(4.0)]] * 2})
    # Alone 1 s a layer. The second comes after 1 s: from 1 to 3 s both do one layer; then it is alone.
    first, second = records(Eager(), served, trace((0.0, "m"), (1.0, "m")), core)
    assert (first.end_s, second.end_s) == (3.0, 4.0)
    assert (first.core_s, second.core_s) == (4.0 + 2 * 2.0, 2 * 2.0 + 4.0)


@pytest.mark.parametrize("core", ["c", "python"])
def test_what_sharing_costs_comes_on_top_of_the_part_of_each(core):
    served = context({"m": [[Cost(4.0)]] * 2})
    costs = BlockCosts(oversubscription=((1.0, 1.0), (3.0, 1.5)))
    # With 2 threads a core a layer takes 2 x 1.25 s, with 3 it takes 3 x 1.5.
    for queries, layer_s in ((2, 2.5), (3, 4.5)):
        found = records(Eager(), served, trace(*[(0.0, "m")] * queries), core, costs=costs)
        assert [record.end_s for record in found] == [2 * layer_s] * queries


@pytest.mark.parametrize(
    ("threads", "stretch"), [(1, 1.0), (8, 1.0), (12, 1.5 * 1.1), (16, 2 * 1.2), (80, 10 * 1.4)]
)
def test_a_cost_lies_between_the_points_and_is_constant_after_the_last(threads, stretch):
    costs = BlockCosts(oversubscription=((1.0, 1.0), (2.0, 1.2), (4.0, 1.4)))
    assert costs.stretch(threads, 8) == pytest.approx(stretch)


@pytest.mark.parametrize("core", ["c", "python"])
def test_those_that_share_fewer_threads_than_cores_run_as_alone(core):
    served = context({"m": [[Cost(4.0)]] * 2})
    found = records(Eager(cores=2), served, trace((0.0, "m"), (0.0, "m")), core)
    assert [(record.end_s, record.core_s) for record in found] == [(4.0, 8.0)] * 2


@pytest.mark.parametrize("core", ["c", "python"])
def test_who_shares_cores_draws_less_at_a_time(core):
    # Beside one like itself each meets a pressure of 0.5 on 2 cores of its own: 2 s become 3 s.
    # Sharing 4, each draws half as much at a time: 0.25.
    served = context({"m": [[Cost(4.0, slowdown=2.0, dram_share=0.5)]] * 2}, cores=(1, 2, 3, 4, 5, 6, 7, 8))
    apart = records(Eager(cores=2, shares_cores=False), served, trace((0.0, "m"), (0.0, "m")), core)
    assert [record.end_s for record in apart] == [6.0, 6.0]
    # On 8 of 8 cores a table has no pressure; on 7 of 8, 14 threads, 1.75 a core.
    together = records(Eager(cores=7), served, trace((0.0, "m"), (0.0, "m")), core)
    alone_s, crowd = 4.0 / 7, 14 / 8
    assert [record.end_s for record in together] == pytest.approx(
        [2 * alone_s * (1 + 0.5 / crowd) * crowd] * 2
    )


@pytest.mark.parametrize("core", ["c", "python"])
def test_a_block_that_may_draw_less_takes_as_long_as_its_bytes_and_leaves_the_rest(core):
    served = context(HALF)
    # 50 bytes/s for 2 s are 100 bytes a layer on 2 cores: at 20 bytes/s 5 s.
    (record,) = records(Eager(2, False, 20.0), served, trace((0.0, "m")), core)
    assert record.end_s == 10.0
    (record,) = records(Eager(2, False, 50.0), served, trace((0.0, "m")), core)
    assert record.end_s == 4.0
    backend = simulator_of(served, trace((0.0, "m")), core)
    backend.wait()
    backend.do(Eager(2, False, 20.0)._start(Query(0, "m", 0.0, 100.0)))
    assert backend.pressure() == 0.2


@pytest.mark.parametrize("core", ["c", "python"])
def test_a_cost_model_sees_the_limit_as_the_bandwidth_of_the_block(core):
    served = serving({"m": ([4.0, 4.0], 100.0)}, (1, 2, 4), machine=make_machine(4))
    # Computing and moving add up: on 2 cores 1 s and 1e11 bytes, at 1e11 bytes/s 1 s more, at half of that 2.
    layer = LayerCostModel(2.0, Tiling(2, 5 * 10**10, 10**11, steepness=0.0))
    cost_model = MachineCostModel(1.0, {"m": ((layer,), (layer,))})
    for limit, seconds in ((None, 4.0), (5e10, 6.0)):
        (record,) = records(Eager(2, False, limit), served, trace((0.0, "m")), core, cost_model=cost_model)
        assert record.end_s == pytest.approx(seconds)


@pytest.mark.parametrize("policy_class", [Oversubscribed, Moca])
@pytest.mark.parametrize("by_cost_model", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_policies_that_ask_for_it_have_the_same_records_in_c(policy_class, by_cost_model, seed):
    found = []
    for serve_one in (
        lambda policy, served, backend: serve(Dispatcher(policy, served), backend),
        serve_simulated,
    ):
        rng = np.random.default_rng(seed)
        served = contended_context(rng, 6.0)
        cost_model = random_cost_model(rng) if by_cost_model else None
        times = rng.exponential(0.5, 40).cumsum().tolist()
        arrivals = [Query(number, "mn"[int(rng.integers(2))], at, 6.0) for number, at in enumerate(times)]
        costs = BlockCosts(start_s=0.02, oversubscription=((1.0, 1.0), (4.0, 1.3)))
        backend = simulator_of(served, arrivals, cost_model=cost_model, costs=costs, drain_s=5.0)
        found.append(list(serve_one(made(policy_class, served), served, backend)))
    assert found[0] == found[1]
    assert len(found[0]) == 40


class Told:
    """Answers what it is told, one answer an event."""

    def __init__(self, *answers: list[Answer]) -> None:
        self.answers = list(answers)

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        return self.answers.pop(0) if self.answers else []


def share(query_id: int, cores: int = 4) -> Allocation:
    return Eager(cores)._start(Query(query_id, "m", 0.0, 100.0))


@pytest.mark.parametrize("serve_one", ["python", "c"])
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [[allocation(0, "m", (0, 2), 2)], [share(1)]],
            "Told lets query 1 share cores beside blocks that have",
        ),
        ([[share(0)], [allocation(1, "m", (0, 2), 2)]], "Told gives query 1 cores of its own beside blocks"),
        ([[share(0, cores=8)]], "Told lets query 0 share 8 cores; there are 4"),
        ([[share(0)], [Resize(0, 2)]], "Told resizes query 0, which shares its cores"),
    ],
)
def test_sharing_beside_others_or_more_than_there_is_is_refused(answers, message, serve_one):
    served = context({"m": [[Cost(4.0)]] * 2})
    backend = simulator_of(served, trace((0.0, "m"), (0.0, "m")))
    with pytest.raises(PolicyError, match=message):
        if serve_one == "c":
            list(serve_simulated(Told(*answers), served, backend))
        else:
            list(serve(Dispatcher(Told(*answers), served), backend))


def test_more_blocks_than_may_share_are_refused():
    served = context({"m": [[Cost(4.0)]] * 2})
    with pytest.raises(PolicyError, match="Eager lets query 32 share cores with 32 blocks; no more may run"):
        records(Eager(), served, trace(*[(0.0, "m")] * 33))


@pytest.mark.parametrize("core", ["c", "python"])
def test_pinned_blocks_cannot_share(core):
    served = context({"m": [[Cost(4.0)]] * 2})
    with pytest.raises(ValueError, match="all are pinned to cores of their own; set `simulated"):
        records(Eager(), served, trace((0.0, "m")), core, placement="pinned")


@pytest.mark.parametrize("bytes_per_s", [0.0, -1.0, inf])
def test_a_limit_that_is_no_bandwidth_is_refused(bytes_per_s):
    with pytest.raises(
        ValueError, match=f"Allocation of query 0: {bytes_per_s} bytes/s of memory; give a number"
    ):
        Eager(bytes_per_s=bytes_per_s)._start(Query(0, "m", 0.0, 100.0))


def placed(query_id: int, first: int | None, cores: int = 2) -> Allocation:
    return replace(allocation(query_id, "m", (0, 2), cores), first_core=first)


@pytest.mark.parametrize("serve_one", ["python", "c"])
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [[placed(0, 0)], [placed(1, 1)]],
            r"Told names cores 1 to 2 for query 1; of the 4 others have \[1\]",
        ),
        ([[placed(0, 3)]], "Told names cores 3 to 4 for query 0; of the 4 others have none of these"),
        (
            [[placed(0, 0)], [placed(1, None)]],
            "Told picks cores of its own for query 1 beside blocks that have",
        ),
        (
            [[placed(0, None)], [placed(1, 0)]],
            "Told names the cores for query 1 beside blocks that have what the",
        ),
        (
            [[replace(share(0), first_core=0)]],
            "Told names cores 0 to 3 for query 0; of the 4 others have none",
        ),
    ],
)
def test_named_cores_are_of_the_machine_and_of_one_block_only(answers, message, serve_one):
    served = context({"m": [[Cost(4.0)]] * 2})
    backend = simulator_of(served, trace((0.0, "m"), (0.0, "m")))
    with pytest.raises(PolicyError, match=message):
        if serve_one == "c":
            list(serve_simulated(Told(*answers), served, backend))
        else:
            list(serve(Dispatcher(Told(*answers), served), backend))


@pytest.mark.parametrize("in_c", [False, True])
def test_named_cores_decide_which_caches_pinned_blocks_share(in_c):
    # Two cache groups of two cores. A footprint of 40 bytes is 20 % of all L3, and 40 % of a group's: that is
    # the pressure which who shares the group meets.
    machine = Machine("toy", 1, ((0, 1), (2, 3)), 1, 100, 1.0, 100.0, validated=False)
    rows = cost_table({"m": [[Cost(4.0, slowdown=2.0, footprint_bytes=40.0)]] * 2}, cores=(1, 2, 4))
    plain = context({"m": [[Cost(4.0)]] * 2})
    served = Context(plain.models, rows, machine)
    ends = []
    for second in (1, 2):
        policy = Told([placed(0, 0, cores=1)], [placed(1, second, cores=1)])
        backend = simulator_of(served, trace((0.0, "m"), (0.0, "m")), placement="pinned")
        run = serve_simulated(policy, served, backend) if in_c else serve(Dispatcher(policy, served), backend)
        ends += [record.end_s for record in run]
    assert ends == pytest.approx([11.2, 11.2, 8.0, 8.0])
