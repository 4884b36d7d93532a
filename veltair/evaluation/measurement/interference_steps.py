"""Sources of interference on this machine: fitted to co-runs of known pressure, and started for a study."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.layout import Layout
from veltair.evaluation.figures.save import save
from veltair.evaluation.measurement.interference_fit import (
    FitReport,
    SourceReadings,
    fit_loads,
    fit_pressure,
    measure_coruns,
    presser,
)
from veltair.evaluation.measurement.interference_plots import fit_figure
from veltair.machine.costs.folder import COSTS, read_tables
from veltair.machine.costs.table import CostTable
from veltair.machine.interference.choice import AUTO, choose
from veltair.machine.interference.perf_stat import PerfStat
from veltair.machine.interference.pressure_probe import ProbePair
from veltair.machine.interference.source import (
    InterferenceSource,
    InterferenceUnavailableError,
    ObservedSlowdown,
    PressureFit,
)
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import on_cores
from veltair.provenance import check_made_here, collect, read_provenance, write_json

SLOWDOWN = "slowdown"


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How much is measured: `rounds` of all loads, and beside each so many readings, `pause_s` apart.

    The slowdown runs so many blocks for a reading: a block counts for a quarter of the average, so that what
    was before eight of them counts for a tenth.
    """

    levels: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    rounds: int = 4
    readings: int = 5
    pause_s: float = 0.12
    blocks: int = 8


@dataclass(frozen=True, slots=True)
class Fitted:
    """A source that works here: its raw readings beside co-runs, and the fit to them."""

    coruns: tuple[SourceReadings, ...]
    report: FitReport


def write_fits(
    config: Config,
    builds: Mapping[str, Path],
    tables: Path,
    output: Path,
    figure: Path,
    settings: FitSettings = FitSettings(),
) -> None:
    """Fit each source that works on this machine to co-runs; write fits, readings and a figure of them.

    The source reads, and its blocks run, on the first core, the co-runner has the last. Raises
    InterferenceUnavailableError on a machine of one core; then nothing is written.
    """
    known = read_tables(tables)
    check_made_here(read_provenance(tables / COSTS))
    machine = known.machine
    if machine.cores < 2:
        raise InterferenceUnavailableError(
            f"{machine.name} has one core, and a fit needs two: one for the source and one for the "
            "co-runner; run without a fit"
        )
    exercise = block_of(builds, known.costs, machine.core_ids[0], settings.blocks)
    fitted, unscored = _fit_all(machine, Layout(config).native, settings, exercise)
    reports = [one.report for one in fitted.values()]
    table = pd.concat([report.table for report in reports], ignore_index=True)
    document = _document(machine, fitted, unscored)
    write_json(output, document, collect(config.model_dump(mode="json"), inputs=[tables / COSTS]))
    save(fit_figure(table, [report.fit for report in reports]), figure, config.figures.formats)


def fit_source(
    source: InterferenceSource,
    machine: Machine,
    native: Path,
    settings: FitSettings,
    learn: Callable[[], None] | None = None,
) -> Fitted:
    """Start a source, measure co-runs beside it, and stop it. `learn` lets it observe blocks."""
    source.start()
    try:
        coruns = measure_coruns(
            source,
            fit_loads(machine, settings.levels),
            presser(machine.core_ids[-1], machine, native),
            settings.rounds,
            settings.readings,
            settings.pause_s,
            learn,
        )
    finally:
        source.stop()
    return Fitted(tuple(coruns), fit_pressure(source.name, source.features, coruns))


def block_of(
    builds: Mapping[str, Path], costs: CostTable, core: int, blocks: int
) -> Callable[[InterferenceSource], None]:
    """Return what runs a model on a core so many times and lets a source observe it.

    The model is the one that full pressure slows down most, by the profile of one core.
    """
    one = costs.core_index(1)

    def seconds(name: str, level: int) -> float:
        return float(costs.solo_seconds(name, level)[:, one].sum())

    name = max(builds, key=lambda name: seconds(name, -1) / seconds(name, 0))
    instance = LoadedModel(builds[name]).filled_instance()
    versions, alone_s, pressed_s = costs.model(name).solo.tolist(), seconds(name, 0), seconds(name, -1)
    print(f"the slowdown is that of {name}: {pressed_s / alone_s:.2f} x under full pressure", flush=True)

    def exercise(source: InterferenceSource) -> None:
        with on_cores([core]):
            for _ in range(blocks):
                begin_s = time.perf_counter()
                instance.run(versions)
                source.observe(time.perf_counter() - begin_s, alone_s, pressed_s)

    return exercise


def read_fits(path: Path, machine: Machine) -> dict[str, PressureFit]:
    """Return this machine's fits by the source's key; none if nobody fitted any.

    Raises ValueError if they are another machine's, ProvenanceError if they were not measured here.
    """
    if not path.exists():
        return {}
    check_made_here(read_provenance(path))
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["machine"] != machine.name:
        raise ValueError(
            f"{path} is of {document['machine']}, this machine is {machine.name}; "
            "fit anew (rule `interference`), or remove the file"
        )
    return {key: PressureFit.from_dict(fit) for key, fit in document["fits"].items()}


@contextmanager
def started_source(config: Config, machine: Machine) -> Iterator[tuple[InterferenceSource, str]]:
    """Within the context, the configured source of interference reads; beside it a line that is printed.

    A fit that explains too little of held-out co-runs is not used. Raises as `choose` and `read_fits` do.
    """
    layout, choice = Layout(config), config.engine.interference
    fits = read_fits(layout.interference, machine)
    if choice != AUTO:  # which passes by a source with such a fit
        fits = {key: fit for key, fit in fits.items() if fit.explains}
    source, line = choose(choice, machine, layout.native, fits)
    print(line, flush=True)
    try:
        yield source, line
    finally:
        source.stop()


def _fit_all(
    machine: Machine,
    native: Path,
    settings: FitSettings,
    exercise: Callable[[InterferenceSource], None],
) -> tuple[dict[str, Fitted], dict[str, str]]:
    """Return the sources that work, by key, and why the others do not."""
    fitted: dict[str, Fitted] = {}
    unscored: dict[str, str] = {}
    for key, source in _sources(machine, native).items():
        learn = partial(exercise, source) if key == SLOWDOWN else None
        try:
            fitted[key] = fit_source(source, machine, native, settings, learn)
        except InterferenceUnavailableError as error:
            unscored[key] = " ".join(str(error).split())
        print(f"{key}: {_quality(fitted[key]) if key in fitted else unscored[key]}", flush=True)
    return fitted, unscored


def _sources(machine: Machine, native: Path) -> dict[str, InterferenceSource]:
    """Return all sources, without a fit; the probe keeps off the co-runner's core."""
    return {
        "perf": PerfStat(machine),
        "probe": ProbePair(machine, native, cores=machine.core_ids[:1]),
        SLOWDOWN: ObservedSlowdown(),
    }


def _quality(fitted: Fitted) -> str:
    fit = fitted.report.fit
    return f"R² {fit.r_squared:.2f}, mean absolute error {fit.mean_absolute_error:.2f} on held-out co-runs"


def _document(
    machine: Machine, fitted: Mapping[str, Fitted], unscored: Mapping[str, str]
) -> dict[str, object]:
    return {
        "machine": machine.name,
        "fits": {key: one.report.fit.as_dict() for key, one in fitted.items()},
        "unscored": dict(unscored),
        "coruns": {key: [asdict(corun) for corun in one.coruns] for key, one in fitted.items()},
    }
