"""Recorded runs of the engine again, in the simulator: the same queries at the same times."""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from veltair.evaluation.experiment.scenario import MakePolicy, Scenario
from veltair.evaluation.loadgen.arrivals import replay
from veltair.evaluation.metrics.policies_table import MEASURED
from veltair.evaluation.metrics.records import Run, to_frame, to_records
from veltair.evaluation.simulation.run import SimulationSettings, make_simulator
from veltair.evaluation.validation.trace_errors import RUN_KEY, TraceError, check_trace
from veltair.serving.simulator.native_loop import serve_simulated

REPLAYS = 5  # of a run, with other draws of the service noise


def runs_of(records: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the records of each run, checked: one policy at one rate, in the order of arrival.

    Raises TraceError as `check_trace` does.
    """
    for _, run in records.groupby(RUN_KEY, sort=False):
        check_trace(run)
        yield run


def replayed(
    recorded: pd.DataFrame, scenario: Scenario, make: MakePolicy, settings: SimulationSettings, seed: int
) -> pd.DataFrame:
    """Return the records of one measured run's queries in the simulator, with one draw of the noise.

    Ids, models, arrivals from the first one on, targets and which queries count are the recorded ones.
    Raises TraceError for the records of another machine or workload, or of a run that was not measured.
    """
    check_trace(recorded)
    _check_site(recorded, scenario)
    arrivals = replay(to_records(recorded))
    simulator = make_simulator(scenario, settings, arrivals, seed)
    seen = scenario.policy_context
    records = serve_simulated(make(seen), seen, simulator)
    first = recorded.iloc[0]
    run = Run(
        "simulator",
        scenario.context.machine.name,
        validated=False,
        workload=scenario.workload,
        policy=str(first["policy"]),
        qps=float(first["qps"]),
        seed=int(first["seed"]),
    )
    frame = to_frame(records, run)
    counted = recorded.set_index("query_id")["counted"]
    return frame.assign(counted=frame["query_id"].map(counted).astype(bool))


def replays(
    recorded: pd.DataFrame,
    scenario: Scenario,
    make: MakePolicy,
    settings: SimulationSettings,
    count: int = REPLAYS,
) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """Return several replays of a run, and as many without contention from the same draws of noise."""
    flat = replace(settings, contention=0.0)
    return (
        [replayed(recorded, scenario, make, settings, seed) for seed in range(1, count + 1)],
        [replayed(recorded, scenario, make, flat, seed) for seed in range(1, count + 1)],
    )


def _check_site(recorded: pd.DataFrame, scenario: Scenario) -> None:
    first, machine = recorded.iloc[0], scenario.context.machine.name
    if first["backend"] != MEASURED:
        raise TraceError(
            f"the run of {first['policy']} comes from backend {first['backend']}; give measured runs (rule "
            "`measure`)"
        )
    if first["machine"] != machine:
        raise TraceError(
            f"the run of {first['policy']} was measured on {first['machine']}, the cost tables are of "
            f"{machine}; give tables and runs of one machine (rules `profile` and `measure`)"
        )
    if first["workload"] != scenario.workload:
        raise TraceError(
            f"a run of workload {first['workload']} was given for {scenario.workload}; give its own"
        )
