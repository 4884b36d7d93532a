"""The timeline of one simulated run, from a configuration to a trace and a picture."""

from dataclasses import dataclass
from pathlib import Path

from veltair.compiler.select.select import Selection
from veltair.config import Config
from veltair.evaluation.experiment.layout import CAPACITY, HOST, Layout
from veltair.evaluation.experiment.scenario import MakePolicy, Scenario
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.figures.timeline_files import busy_window, write_timeline
from veltair.evaluation.metrics.policies_table import PolicyOrder
from veltair.evaluation.metrics.records import Run
from veltair.evaluation.simulation.assumptions import selection_of, with_assumed_noise
from veltair.evaluation.simulation.run import SimulationSettings, simulate
from veltair.evaluation.simulation.steps import simulated_policy_maker, simulation_settings
from veltair.evaluation.simulation.validated import simulated_scenario
from veltair.machine.costs.described_versions import derive_described
from veltair.machine.costs.folder import COSTS, Tables, read_tables
from veltair.machine.topology.described import described
from veltair.provenance import collect
from veltair.serving.loop.dispatcher import Dispatcher
from veltair.serving.loop.timeline import LIMIT, Recorder, Timeline, serve_recorded

# Where nobody searched for the policy's capacity: a load at which policies differ, as a share of the bound.
UNKNOWN_LOAD = 0.5


@dataclass(frozen=True, slots=True)
class TimelineRequest:
    """Which run is drawn: None stands for what the configuration says first, or for a choice that is printed.

    `window_s` are begin and end of the picture, in seconds since the run began.
    """

    policy: str
    workload: str | None = None
    machine: str | None = None
    qps: float | None = None
    seed: int | None = None
    window_s: tuple[float, float] | None = None
    placement: str = "pinned"
    limit: int = LIMIT


def draw_timeline(config: Config, request: TimelineRequest, folder: Path) -> list[Path]:
    """Simulate a run and write its trace and its picture into a folder; return their paths.

    Raises LookupError for a policy, workload, machine or table that is not there, ValueError on a window in
    which nothing ran.
    """
    workload = request.workload or config.simulated.workloads[0]
    machine = request.machine or config.simulated.machines[0]
    seed = config.simulated.seeds[0] if request.seed is None else request.seed
    for name, known in ((request.policy, config.policies), (workload, config.mixes)):
        if name not in known:
            raise LookupError(f"the configuration has no {name!r}; choose from {', '.join(known)}")
    tables, source = find_tables(Layout(config), machine, selection_of(config))
    tables = with_assumed_noise(tables, config.simulated)
    settings = simulation_settings(config, tables)
    scenario = simulated_scenario(config, tables, workload, settings)
    qps = request.qps or _known_rate(config, scenario, (machine, workload, request.policy), seed)
    make = simulated_policy_maker(config, request.policy)
    timeline = record_simulation(scenario, make, settings, qps, seed, request.placement, request.limit)
    validated = scenario.context.machine.validated and scenario.simulator_validated
    run = Run("simulator", machine_name(scenario), validated, workload, request.policy, qps, seed)
    stem = folder / f"{machine_name(scenario)}-{workload}-{request.policy}"
    provenance = collect(config.model_dump(mode="json"), inputs=[source], seed=seed)
    # Asked for by name, so a run without any block is an error here.
    window_s = request.window_s or busy_window(timeline)
    order = PolicyOrder(**Layout(config).policy_order())
    return write_timeline(timeline, run, stem, window_s, provenance, order)


def machine_name(scenario: Scenario) -> str:
    """Return the name of the machine that a scenario is on."""
    return scenario.context.machine.name


def record_simulation(
    scenario: Scenario,
    make: MakePolicy,
    settings: SimulationSettings,
    qps: float,
    seed: int,
    placement: str = "pinned",
    limit: int = LIMIT,
) -> Timeline:
    """Return the timeline of one simulated run; core ids are assigned by the placement."""
    _, _, simulator = simulate(scenario, make, settings, qps, seed)
    seen = scenario.policy_context
    recorder = Recorder(simulator, seen, placement, limit=limit)
    for _ in serve_recorded(Dispatcher(make(seen), seen), recorder):
        pass
    return recorder.timeline()


def find_tables(layout: Layout, machine: str, selection: Selection) -> tuple[Tables, Path]:
    """Return a machine's cost tables and the file that they come from.

    Those of a described machine are derived here where no run wrote them yet. Raises LookupError if there are
    none to derive them from.
    """
    folder = layout.tables(machine)
    if machine == HOST or (folder / COSTS).exists():
        return read_tables(folder), folder / COSTS
    source = layout.tables(HOST)
    return derive_described(read_tables(source), described(machine), selection), source / COSTS


def _known_rate(config: Config, scenario: Scenario, run: tuple[str, str, str], seed: int) -> float:
    """Return the policy's capacity if it was searched, else a share of what no policy can pass."""
    path = Layout(config).simulated(*run) / CAPACITY
    if path.exists():
        rows = read_csv(path)
        found = rows.loc[(rows["seed"] == seed) & (rows["qps_at_95"] > 0), "qps_at_95"]
        if len(found):
            print(f"at its QPS at 95 % QoS, {found.iloc[0]:.4g} queries/s ({path})")
            return float(found.iloc[0])
    qps = UNKNOWN_LOAD * scenario.fluid_qps
    print(f"at {qps:.4g} queries/s, {UNKNOWN_LOAD:.0%} of the bound for all policies; --qps sets another")
    return qps
