"""The loop in C against its oracle, dispatcher and policies in Python: the same records, bit for bit."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.fcfs_min import FcfsMin
from baselines.planaria import Planaria
from tests.support.builders import make_context, make_model
from tests.support.contended_builders import contended_context, random_cost_model
from tests.support.sim_builders import Cost, Greedy, context, trace
from veltair.machine.costs.block_costs import BlockCosts
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.open_queries import PolicyError
from veltair.serving.loop.policy import Answer, Context, Policy, Snapshot, Yield
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.policies.adaptive import VeltairFULL
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec, spec_of
from veltair.serving.policies.presets import make_policy
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import SensorError, Simulator

BY_BLOCKS = {
    "conflict": ["wait", "backfill", "shrink", "shrink_one_layer"],
    "order": ["fcfs", "edf", "llf"],
    "drop_late": ["never", "at_deadline", "when_doomed"],
}
ALPHA: Mapping[str, list[Any]] = {"alpha": [1.0, 0.5]}
ADAPTIVE = {
    **BY_BLOCKS,
    **ALPHA,
    "budgets": ["static", "slack_feedback"],
    "budget_basis": ["macs", "time"],
    "threshold": ["active_queries", "running_queries", "loaded_models"],
    "coalesce_layers": [1, 2, 8],
    "growth": [False, True],
}
FIXED = {**BY_BLOCKS, **ALPHA}
POLICIES: Mapping[str, Mapping[str, list[Any]]] = {
    "baselines.fcfs_min:FcfsMin": FIXED,
    "baselines.edf_min:EdfMin": FIXED,
    "baselines.fcfs_all:FcfsAll": {key: BY_BLOCKS[key] for key in ("order", "drop_late")},
    "baselines.layer_wise:LayerWise": {**FIXED, "budgets": ADAPTIVE["budgets"]},
    "baselines.fixed_blocks:FixedBlocks": {**FIXED, "budgets": ADAPTIVE["budgets"], "layers": [2]},
    "baselines.planaria:Planaria": BY_BLOCKS,
    "baselines.preemptive_edf:PreemptiveEdf": {
        **ALPHA,
        "drop_late": BY_BLOCKS["drop_late"],
        "growth": [False, True],
    },
    "baselines.planaria:PlanariaAware": BY_BLOCKS,
    "baselines.fixed_version:FixedVersionElastic": {**BY_BLOCKS, "version": [1]},
    "baselines.fixed_version:FixedVersionBlocks": {**ADAPTIVE, "version": [1]},
    "veltair.serving.policies.adaptive:VeltairAS": ADAPTIVE,
    "veltair.serving.policies.adaptive:VeltairAC": {**BY_BLOCKS, "versions": ["fastest", "priced"]},
    "veltair.serving.policies.adaptive:VeltairFULL": {**ADAPTIVE, "versions": ["fastest", "priced"]},
}
AT_ONCE = QueueOptions(Order.FCFS, Conflict.WAIT, DropLate.NEVER)
COSTS: Mapping[str, Any] = {"drain_s": 100.0}


def choices(path: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    options = {name: st.sampled_from(values) for name, values in POLICIES[path].items()}
    return st.tuples(st.just(path), st.fixed_dictionaries(options))


def simulator_of(
    seed: int, gap_s: float, qos_s: float, inputs: Mapping[str, Any], by_cost_model: bool, queries: int
) -> tuple[Context, Simulator]:
    rng = np.random.default_rng(seed)
    served = contended_context(rng, qos_s)
    cost_model = random_cost_model(rng) if by_cost_model else None
    times = rng.exponential(gap_s, queries).cumsum().tolist()
    # Ids against the order of arrival: where two arrive together, the smaller one is the older.
    arrivals = [
        Query(queries - index, "mn"[int(rng.integers(2))], at, qos_s * float(rng.choice([1.0, 0.7])))
        for index, at in enumerate(times)
    ]
    return served, Simulator(
        arrivals, served, noise_batches(arrivals, served, rng), cost_model=cost_model, **inputs
    )


@settings(deadline=None, max_examples=250)
@given(
    chosen=st.sampled_from(list(POLICIES)).flatmap(choices),
    seed=st.integers(0, 10_000),
    gap_s=st.sampled_from([0.0, 0.2, 0.7, 2.0]),
    qos_s=st.sampled_from([2.0, 6.0, 100.0]),
    by_cost_model=st.booleans(),
    inputs=st.fixed_dictionaries(
        {
            "drain_s": st.sampled_from([0.5, 1000.0]),
            "placement": st.sampled_from(["spread", "pinned"]),
            "costs": st.builds(
                BlockCosts,
                start_s=st.sampled_from([0.0, 0.1]),
                starts_s=st.sampled_from([{}, {"m": 0.3}]),
                resize_s=st.sampled_from([0.0, 0.05]),
                grant_s=st.sampled_from([0.0, 0.2]),
                join_s=st.sampled_from([0.0, 0.03]),
                decision_s=st.sampled_from([0.0, 0.04]),
            ),
            "sensor_error": st.sampled_from([None, SensorError(0.2, seed=1), SensorError(0.9)]),
        }
    ),
)
def test_the_loop_gives_the_records_of_dispatcher_and_policy(
    chosen, seed, gap_s, qos_s, by_cost_model, inputs
):
    path, options = chosen
    found = []
    for serve_one in (in_python, serve_simulated):
        served, simulator = simulator_of(seed, gap_s, qos_s, inputs, by_cost_model, 24)
        policy = make_policy(path, served, "paper", options)
        found.append((outcome(serve_one, policy, served, simulator), simulator.events))
    assert found[0] == found[1]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    gap_s=st.sampled_from([0.3, 0.6, 1.5]),
    options=choices("baselines.preemptive_edf:PreemptiveEdf"),
    inputs=st.fixed_dictionaries(
        {
            "drain_s": st.just(1000.0),
            "placement": st.sampled_from(["spread", "pinned"]),
            "costs": st.builds(BlockCosts, yield_s=st.sampled_from([0.0, 0.07])),
        }
    ),
)
def test_the_loop_lets_the_same_blocks_yield(seed, gap_s, options, inputs):
    path, chosen = options
    found = []
    for serve_one in (in_python, serve_simulated):
        served, simulator = urgent(seed, gap_s, inputs)
        policy = make_policy(path, served, "paper", chosen)
        found.append((outcome(serve_one, policy, served, simulator), simulator.events))
    assert found[0] == found[1]


def urgent(seed: int, gap_s: float, inputs: Mapping[str, Any]) -> tuple[Context, Simulator]:
    """Return queries of near and of late deadlines, each of which suits a few of 8 cores."""
    rng, counts = np.random.default_rng(seed), np.arange(1, 9)
    models = [make_model("long", [1] * 6), make_model("short", [1] * 2)]
    seconds = {}
    for model in models:
        work = rng.uniform(0.5, 2.0, len(model.layers))
        seconds[model.name] = (work[:, None] / np.minimum(counts, rng.integers(1, 5)))[:, None, :, None]
    served = make_context(seconds, models)
    arrivals = []
    for index, at in enumerate(rng.exponential(gap_s, 40).cumsum().tolist()):
        name, targets_s = ("short", [1.0, 2.0, 3.0]) if rng.random() < 0.4 else ("long", [10.0, 20.0, 40.0])
        arrivals.append(Query(index, name, at, float(rng.choice(targets_s))))
    return served, Simulator(arrivals, served, noise_batches(arrivals, served, rng), **inputs)


class Counting:
    """A policy whose yields are counted."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.yields = policy, 0

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        answers = self.policy.allocate(snapshot)
        self.yields += sum(isinstance(answer, Yield) for answer in answers)
        return answers


def test_urgent_queries_make_others_yield():
    yields = 0
    for seed in range(10):
        served, simulator = urgent(seed, 0.6, COSTS)
        counting = Counting(make_policy("baselines.preemptive_edf:PreemptiveEdf", served, "paper", {}))
        outcome(in_python, counting, served, simulator)
        yields += counting.yields
    assert yields > 20


@pytest.mark.parametrize("gap_s", [0.5, 2.0])
def test_running_blocks_grow_into_the_same_cores(gap_s):
    options = {"growth": True, "conflict": "shrink", "coalesce_layers": 8}
    for seed in range(15):
        found = []
        for serve_one in (in_python, serve_simulated):
            served, simulator = simulator_of(seed, gap_s, 6.0, COSTS, by_cost_model=False, queries=40)
            policy = make_policy("veltair.serving.policies.adaptive:VeltairFULL", served, "paper", options)
            found.append((outcome(serve_one, policy, served, simulator), simulator.events))
        assert found[0] == found[1]


def in_python(policy: Policy, served: Context, simulator: Simulator) -> Any:
    return serve(Dispatcher(policy, served), simulator)


def outcome(serve_one: Any, policy: Policy, served: Context, simulator: Simulator) -> list[Any]:
    """Return the records; a policy that waits for ever says so in both."""
    records: list[Any] = []
    try:
        records.extend(serve_one(policy, served, simulator))
    except PolicyError as error:
        records.append(str(error))
    return records


@pytest.mark.parametrize("path", POLICIES)
def test_every_policy_of_ours_has_a_plan(path):
    options = {name: values[0] for name, values in POLICIES[path].items()}
    assert (
        spec_of(make_policy(path, contended_context(np.random.default_rng(0)), "paper", options)) is not None
    )


def test_more_queries_than_are_handed_over_at_once_are_served():
    found = []
    for serve_one in (in_python, serve_simulated):
        served, simulator = simulator_of(
            5, 0.5, 6.0, {**COSTS, "sensor_error": SensorError(0.1)}, False, 1200
        )
        policy = make_policy("veltair.serving.policies.adaptive:VeltairFULL", served, "tuned", {})
        found.append(list(serve_one(policy, served, simulator)))
    assert len(found[0]) == 1200
    assert found[0] == found[1]


def served_in_c(policy: Policy, served: Context, arrivals: list[Query], **costs: float) -> list[QueryRecord]:
    noise = noise_batches(arrivals, served, np.random.default_rng(0))
    simulator = Simulator(arrivals, served, noise, **{**COSTS, **costs})
    return list(serve_simulated(policy, served, simulator))


def fcfs(served: Context) -> Policy:
    return make_policy("baselines.fcfs_min:FcfsMin", served, "paper", {})


def test_a_policy_without_a_spec_is_served_too():
    served = context({"m": [[Cost(1.0)]]})
    records = served_in_c(Greedy(served), served, trace((0.0, "m"), (0.5, "m")))
    assert [record.end_s for record in records] == [1.0, 1.5]


def test_a_subclass_that_decides_otherwise_does_not_inherit_the_spec():
    class Late(FcfsMin):
        def allocate(self, snapshot: Any) -> Any:
            return super().allocate(snapshot) if snapshot.time_s >= 1.0 else ()

    served = context({"m": [[Cost(1.0)]]})
    assert spec_of(Late(served, AT_ONCE, alpha=1.0)) is None
    first, _ = served_in_c(Late(served, AT_ONCE, alpha=1.0), served, trace((0.0, "m"), (1.0, "m")))
    assert first.start_s == 1.0


def test_a_subclass_with_another_constructor_only_inherits_the_spec():
    class Half(FcfsMin):
        def __init__(self, context: Context) -> None:
            super().__init__(context, AT_ONCE, alpha=0.5)

    spec = spec_of(Half(context({"m": [[Cost(1.0)]]})))
    assert spec is not None
    assert spec.budgets is not None
    assert spec.budgets.alpha == 0.5


def test_a_policy_that_leaves_queries_waiting_for_good_is_named():
    served = context({"m": [[Cost(1.0)]]}, cores=(1, 2))
    tables = spec_of(fcfs(served)).tables  # type: ignore[union-attr]
    spec = NativePolicySpec(DecisionKind.BLOCKS, tables, AT_ONCE, form=lambda *_: greedy)  # type: ignore
    greedy = type("Greedy", (), {"block": range(1), "cores": 4})

    class Never(Planaria):
        def native_spec(self) -> NativePolicySpec:
            return spec

    policy = make_never(Never, served)
    with pytest.raises(PolicyError, match=r"Never stalls: 2 queries wait \(the oldest is 0, a m\), 2 cores"):
        served_in_c(policy, served, trace((0.0, "m"), (0.5, "m")))


def make_never(never: type[Planaria], served: Context) -> Policy:
    return never(served, AT_ONCE)


def test_what_is_open_at_the_cut_off_is_unfinished():
    served = context({"m": [[Cost(8.0)]]}, cores=(1,))
    records = served_in_c(fcfs(served), served, trace((0.0, "m"), (1.0, "m")), drain_s=2.0)
    assert [(record.query.id, record.ending, record.end_s) for record in records] == [
        (1, Ending.UNFINISHED, 3.0),
        (0, Ending.UNFINISHED, 3.0),
    ]
    assert {record.reason for record in records} == {"the run ended first"}
    assert [record.core_s for record in records] == [0.0, 3.0]


def test_a_query_that_arrives_twice_is_refused():
    served = context({"m": [[Cost(1.0)]]})
    twice = [Query(0, "m", 0.0, 9.0), Query(0, "m", 1.0, 9.0)]
    with pytest.raises(ValueError, match="query 0 arrived twice"):
        served_in_c(fcfs(served), served, twice)


def test_a_trace_without_queries_has_no_records():
    served = context({"m": [[Cost(1.0)]]})
    assert served_in_c(fcfs(served), served, []) == []


def test_whoever_looks_at_the_records_may_stop_early():
    served, simulator = simulator_of(1, 0.5, 6.0, COSTS, False, 600)
    policy = make_policy("baselines.planaria:Planaria", served, "paper", {})
    assert len(list(islice(serve_simulated(policy, served, simulator), 10))) == 10


def test_a_spec_says_how_blocks_are_made():
    served = context({"m": [[Cost(1.0)]]})
    tables = spec_of(fcfs(served)).tables  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="kind is BLOCKS, with 0 of `form` and `former`"):
        NativePolicySpec(DecisionKind.BLOCKS, tables, AT_ONCE)


def test_full_is_planned_as_it_was_made():
    served = contended_context(np.random.default_rng(0))
    policy = make_policy("veltair.serving.policies.adaptive:VeltairFULL", served, "tuned", {})
    assert isinstance(policy, VeltairFULL)
    spec = spec_of(policy)
    assert spec is not None
    assert spec.grows
    assert spec.former is not None
    assert spec.former.coalesce_layers == 8
