"""The steps of a run, one a rule: each reads and writes the files that it is told, and nothing else."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pandas as pd

from veltair.config import Config
from veltair.evaluation.capacity import SearchSettings
from veltair.evaluation.interference_steps import started_source
from veltair.evaluation.layout import Layout
from veltair.evaluation.live import (
    LiveSettings,
    LiveStudy,
    live_capacity_row,
    live_frame,
    load_models,
    make_samples,
    policy_verdicts,
    run_rows,
    search,
)
from veltair.evaluation.metrics import model_rates, rates
from veltair.evaluation.plots import efficiency_figure, latency_figure, qps_figure, save
from veltair.evaluation.records import read_records
from veltair.evaluation.study import (
    REFERENCE,
    MakePolicy,
    SimulationSettings,
    Site,
    capacity_row,
    find_policy_capacity,
    make_site,
    offered_rates,
    over_seeds,
    policy_records,
)
from veltair.evaluation.summary import summary_markdown
from veltair.machine.gang import Launch
from veltair.machine.launchers import launcher
from veltair.machine.model_memory import ModelMemory
from veltair.machine.tables import COSTS, Tables, read_tables
from veltair.provenance import (
    Provenance,
    check_made_here,
    collect,
    read_provenance,
    write_atomically,
    write_parquet,
    write_result,
)
from veltair.serving.presets import make_policy

CAPACITY, RECORDS, RUNS, VERDICTS = "capacity.csv", "records.parquet", "runs.csv", "verdicts.csv"
TEXTS = ("invalid", "problem", "answer", "loadgen_reason")
# Of the simulated capacity of the reference policy: a load that all policies are measured at.
COMMON_LOAD = 0.7


@contextmanager
def machine_to_itself(lock: Path) -> Iterator[None]:
    """Hold a lock that no second run on this machine can hold, while something is measured."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another measurement on this machine to end ({lock})", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def measuring_lock() -> Path:
    """Return the lock that all runs of this user share."""
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")) / f"veltair-{os.getuid()}.lock"


def site_of(config: Config, tables: Tables, workload: str) -> Site:
    """Return a workload of the configuration on the machine of some tables."""
    qos_s = {name: model.qos_ms / 1e3 for name, model in config.models.items()}
    return make_site(tables, qos_s, config.qos.relax, workload, config.workloads[workload])


def policy_maker(config: Config, policy: str) -> MakePolicy:
    """Return what makes a fresh policy for a run."""
    served = config.policies[policy]
    return lambda context: make_policy(served.path, context, config.preset, served.options)


def simulate_capacity(config: Config, tables: Path, workload: str, policy: str, output: Path) -> None:
    """Write the QPS at 95 % QoS of a policy on a machine, a row a seed."""
    site = site_of(config, read_tables(tables), workload)
    search_settings = SearchSettings(config.simulated.resolution, target=config.qos.satisfaction)
    rows = []
    for seed in config.simulated.seeds:
        pooled, minimum = find_policy_capacity(
            site, policy_maker(config, policy), simulation_settings(config), search_settings, seed
        )
        rows.append(capacity_row(site, policy, seed, pooled, minimum))
        print(
            f"{site.context.machine.name}, {workload}, {policy}, seed {seed}: {pooled.describe()}", flush=True
        )
    write_csv(output, pd.DataFrame(rows), _provenance(config, [tables / "costs.parquet"]))


def simulate_loads(
    config: Config, tables: Path, workload: str, policy: str, capacities: Sequence[Path], output: Path
) -> None:
    """Write the records of a policy at loads that all policies share, and at its own capacity."""
    site = site_of(config, read_tables(tables), workload)
    capacity = pd.concat([read_csv(path) for path in capacities], ignore_index=True)
    frames = []
    for seed, rows in capacity.groupby("seed"):
        offered = offered_rates(rows, policy, site.fluid_qps)
        frames.append(
            policy_records(
                site,
                policy,
                policy_maker(config, policy),
                simulation_settings(config),
                offered,
                int(str(seed)),
            )
        )
    write_parquet(output, pd.concat(frames, ignore_index=True), _provenance(config, capacities))


def measure_policy(
    config: Config,
    tables: Path,
    builds: dict[str, Path],
    workload: str,
    policy: str,
    capacities: Sequence[Path],
    folder: Path,
    notes: Path | None = None,
) -> None:
    """Search a policy's QPS at 95 % QoS on this machine, from the simulated answers, and write all runs.

    `notes` is where the workers write what they are at, should the process crash.
    """
    site = site_of(config, read_tables(tables), workload)
    check_made_here(read_provenance(tables / COSTS))
    models, memory = load_models(builds, site.weights, memory_bytes(config))
    common_qps, estimate_qps = _first_rates(site, policy, capacities)
    settings, make = live_settings(config), policy_maker(config, policy)
    with machine_to_itself(measuring_lock()), started_source(config, site.context.machine) as (source, line):
        samples = make_samples(models, site, settings.seed, memory)
        launch = launch_of(config, notes)
        study = LiveStudy(site, policy, make, models, samples, settings, launch, source, memory)
        pooled, minimum, runs = search(
            study, live_search(config), common_qps, estimate_qps, folder / "loadgen"
        )
    if not runs:
        raise RuntimeError(f"{policy} on {workload}: no rate could be measured; see the lines above")
    print(f"measured here, {workload}, {policy}: {pooled.describe()}", flush=True)
    if memory is not None:
        print(_loads_text(memory), flush=True)
    fits = Layout(config).interference
    inputs = [tables / COSTS, *([fits] if fits.exists() else [])]
    provenance = _provenance(config, inputs, seed=settings.seed, interference=line)
    row = live_capacity_row(site, policy, settings.seed, common_qps, pooled, minimum)
    write_parquet(folder / RECORDS, live_frame(study, runs), provenance)
    write_csv(folder / RUNS, pd.DataFrame(run_rows(policy, runs)), provenance)
    write_csv(folder / VERDICTS, pd.DataFrame(policy_verdicts(policy, runs)), provenance)
    write_csv(folder / CAPACITY, pd.DataFrame([row]), provenance)


def _loads_text(memory: ModelMemory) -> str:
    """Return how often models were loaded, and how long it took."""
    times = ", ".join(
        f"{name} {len(seconds)} x {1e3 * median(seconds):.1f} ms"
        for name, seconds in memory.load_seconds.items()
        if seconds
    )
    return f"model memory: {memory.counts.loads} loads (median: {times}), {memory.counts.evictions} evictions"


def _first_rates(site: Site, policy: str, capacities: Sequence[Path]) -> tuple[float, float]:
    """Return the rate that all policies are measured at, and the policy's simulated capacity or a guess."""
    simulated = over_seeds(pd.concat([read_csv(path) for path in capacities], ignore_index=True))
    answers = dict(zip(simulated["policy"], simulated["qps_at_95"], strict=True))
    reference = answers.get(REFERENCE) or max(answers.values()) or 0.1 * site.fluid_qps
    return COMMON_LOAD * reference, answers[policy] or reference


def write_metrics(config: Config, tables: Sequence[Path], runs: Sequence[Path], folder: Path) -> None:
    """Write targets.csv, rates.csv, model_rates.csv and capacity.csv from the records of all runs."""
    by_machine: dict[str, tuple[pd.DataFrame, int]] = {}
    for path in tables:
        for workload in config.workloads:
            site = site_of(config, read_tables(path), workload)
            machine = site.context.machine
            known, cores = by_machine.get(machine.name, (site.targets, machine.cores))
            merged = pd.concat([known, site.targets]).drop_duplicates("model", ignore_index=True)
            by_machine[machine.name] = (merged, cores)
    all_rates, all_models = [], []
    for run in runs:
        records = read_records(run / RECORDS)
        target, cores = by_machine[str(records["machine"].iloc[0])]
        table = rates(records, target, cores)
        if (run / RUNS).exists():
            problems = read_csv(run / RUNS).set_index("qps")["problem"].fillna("")
            table["invalid"] = table["qps"].map(problems)
        all_rates.append(table)
        all_models.append(model_rates(records, target))
    capacity = over_seeds(pd.concat([read_csv(run / CAPACITY) for run in runs], ignore_index=True))
    provenance = _provenance(config, [run / RECORDS for run in runs])
    write_csv(folder / "targets.csv", pd.concat([target for target, _ in by_machine.values()]), provenance)
    rate_table = pd.concat(all_rates, ignore_index=True)
    if "invalid" in rate_table:
        rate_table["invalid"] = rate_table["invalid"].fillna("")
    write_csv(folder / "rates.csv", rate_table, provenance)
    write_csv(folder / "model_rates.csv", pd.concat(all_models, ignore_index=True), provenance)
    write_csv(folder / CAPACITY, capacity, provenance)


def draw_figures(folder: Path, figures: Path, formats: Sequence[str]) -> None:
    """Draw all figures from the tables of metrics."""
    capacity, rate_table, target = _metrics(folder)
    draw = {"qps": qps_figure, "latency": latency_figure, "efficiency": efficiency_figure}
    for name, function in draw.items():
        save(function(capacity, rate_table, target), figures / name, formats)


def write_summary(folder: Path, figures: Sequence[Path], output: Path) -> None:
    """Write the summary that a person reads."""
    capacity, rate_table, target = _metrics(folder)
    text = summary_markdown(capacity, rate_table, target, figures=[str(path) for path in figures])
    write_atomically({output: text.encode()})


def write_golden(folder: Path, output: Path) -> None:
    """Write all metrics of simulated runs as one text whose every digit is meant."""
    parts = [f"# {name}\n{(folder / name).read_text()}" for name in (CAPACITY, "rates.csv", "targets.csv")]
    write_atomically({output: "\n".join(parts).encode()})


def check_golden(made: Path, golden: Path) -> None:
    """Raise ValueError at the first line in which a result differs from the committed one."""
    lines = list(zip(made.read_text().splitlines(), golden.read_text().splitlines(), strict=False))
    for number, (ours, theirs) in enumerate(lines, start=1):
        if ours != theirs:
            raise ValueError(f"{made}:{number} differs from {golden}:\n  now: {ours}\n  was: {theirs}")
    if made.read_text() != golden.read_text():
        raise ValueError(f"{made} has not as many lines as {golden}")


def write_csv(path: Path, table: pd.DataFrame, provenance: Provenance) -> None:
    """Write a table as CSV that reads back equal, with its provenance beside."""
    write_result(path, table.to_csv(index=False, lineterminator="\n").encode(), provenance)


def read_csv(path: Path) -> pd.DataFrame:
    """Return a table written by write_csv."""
    # Empty texts would be read as missing numbers.
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, "str"), float_precision="round_trip")
    return table.fillna(dict.fromkeys(TEXTS, ""))


def _metrics(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    capacity, rate_table, target = (
        read_csv(folder / name) for name in (CAPACITY, "rates.csv", "targets.csv")
    )
    return capacity, rate_table, target


def simulation_settings(config: Config) -> SimulationSettings:
    """Return how one rate is simulated."""
    simulated = config.simulated
    return SimulationSettings(
        simulated.queries,
        simulated.start_cost_us * 1e-6,
        simulated.resize_cost_us * 1e-6,
        simulated.drain_qos,
    )


def live_settings(config: Config) -> LiveSettings:
    """Return how one rate is measured."""
    measured = config.measured
    return LiveSettings(
        measured.seconds,
        measured.seed,
        config.simulated.drain_qos,
        measured.validation,
        measured.timeline,
        config.engine.placement,
    )


def launch_of(config: Config, notes: Path | None = None) -> Launch:
    """Return what starts the workers of an engine, which write what they are at to `notes`."""
    engine = config.engine
    return launcher(engine.launcher, Layout(config).native, malleable=engine.malleable, notes=notes)


def memory_bytes(config: Config) -> int | None:
    """Return the budget for the weights of loaded models, if there is one."""
    megabytes = config.engine.memory_mb
    return None if megabytes is None else int(megabytes * 1e6)


def live_search(config: Config) -> SearchSettings:
    """Return how the highest rate is searched where rates are measured."""
    measured = config.measured
    return SearchSettings(measured.resolution, max_rates=measured.max_rates, target=config.qos.satisfaction)


def _provenance(
    config: Config, inputs: Sequence[Path], seed: int | None = None, **details: str
) -> Provenance:
    return collect(config.model_dump(mode="json"), inputs=inputs, seed=seed, **details)
