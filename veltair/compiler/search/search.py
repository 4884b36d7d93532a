"""ONE search per structure: every candidate and its raw times go into a record on disk, batch by batch."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from veltair.compiler.footprint.tiling import analyse
from veltair.compiler.footprint.version import Candidate, Origin
from veltair.compiler.recipes.recipe import RecipeError, is_recipe
from veltair.compiler.recipes.recipes import generated, recipes
from veltair.compiler.search.evolution import REFUSED, Evolution, measurable, replayed
from veltair.compiler.search.plain_schedules import plain_schedules
from veltair.compiler.search.prepacked import measured_kernel
from veltair.compiler.search.progress import Progress
from veltair.compiler.search.records import (
    ERROR_CHARACTERS,
    EXHAUSTED,
    FAILED,
    PACKED_SUFFIX,
    SUFFIX,
    Batch,
    EarlyEnd,
    Header,
    Record,
    RecordFile,
    SearchTrial,
    find_record,
    read_record,
    unpack,
)
from veltair.compiler.search.runner import (
    Arguments,
    Measured,
    MeasureError,
    MeasureSettings,
    RpcSettings,
    Runner,
)
from veltair.compiler.search.target import host_cpu
from veltair.compiler.search.traces import plain

SEARCHED: Origin = "search"
WRITTEN: Origin = "schedule"
RECIPE: Origin = "recipe"
# Candidates are timed on one core: times on more are modelled from these.
THREADS = 1

Schedules = Callable[[Any, Any], Sequence[Any]]
# A module to be built, and the dtypes and shapes of its arguments.
BuildItem = tuple[Any, Arguments]

log = logging.getLogger("veltair.search")


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to search: `trials` candidates a structure beside recipes, `batch` at once, to `repeats` runs.

    With `few` nothing is searched: of each structure so many recipes and so many schedules written by hand
    are measured, or a plain one where there is neither.
    """

    trials: int = 128
    seed: int = 1
    population: int = 128
    generations: int = 3
    batch: int = 32
    repeats: int = 10
    build_timeout_s: float = 30.0
    run_timeout_s: float = 10.0
    few: int = 0

    def __post_init__(self) -> None:
        if self.few < 0:
            raise ValueError(f"few is {self.few}; give 0 or more")
        for name in ("trials", "seed", "population", "generations", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"search.{name} is {getattr(self, name)}; give 1 or more")
        if self.population < self.batch:
            raise ValueError(
                f"search.population is {self.population}, below search.batch {self.batch}; a batch is "
                "picked from the population: give a larger population or a smaller batch"
            )
        self.measuring()

    def measuring(self) -> MeasureSettings:
        """Return how a candidate is measured. Raises ValueError."""
        return MeasureSettings(self.repeats, self.build_timeout_s, self.run_timeout_s)


def search(
    functions: Mapping[str, Any],
    target: Any,
    settings: SearchSettings,
    folder: Path,
    progress: Callable[[Progress], None],
    schedules: Schedules | None = None,
    rpc: RpcSettings | None = None,
) -> dict[str, str]:
    """Search each structure once, into its record in a folder; return why a structure has no candidate.

    Only trials that a record lacks are made, so an interrupted search goes on where it was. Recipes come
    first and in addition to the trials. `schedules` gives the schedules of a function for a target that were
    written by hand; they are the first of the trials. A structure whose search fails leaves the others alone.
    Raises MeasureError if nothing can be measured.
    """
    with Runner(target, settings.measuring(), rpc) as runner:
        task = _Task(target, settings, runner, schedules)
        tally = _Tally(folder, list(functions), settings.few or settings.trials, progress)
        failures = {}
        for structure, function in functions.items():
            file = RecordFile(folder, _header(structure, target, settings))
            if reason := _search_structure(task, function, file, tally):
                failures[structure] = reason
    return failures


def continue_records(
    packed: Path, folder: Path, structures: Iterable[str], target: Any, settings: SearchSettings
) -> list[str]:
    """Unpack the records of structures into a folder, so that a search goes on from them; return which.

    Only those are that this very search would have written: for the same CPU, cores, seed and repeats.
    """
    same = []
    for structure in structures:
        record = read_record(packed / f"{structure}{PACKED_SUFFIX}")
        if record is not None and record.header == _header(structure, target, settings):
            same.append(structure)
    return unpack(packed, folder, same)


def read_candidates(structure: str, function: Any, folder: Path) -> Iterator[Candidate]:
    """Yield every candidate of a structure's record, packed or not, in the order in which it was measured."""
    record = find_record(structure, folder)
    for index, trial in enumerate(record.trials if record else ()):
        run_seconds, trace = trial.run_seconds, trial.trace
        try:
            tiling, traffic = analyse(replay(function, trace)["main"])
        except REFUSED as error:
            # Its trace does not apply to the layer: it cannot be built, so it counts as one that did not run.
            if isinstance(error, RecipeError):
                log.warning("%s: its recipe %s cannot be built any more (%s)", structure, _text(trace), error)
            (tiling, traffic), run_seconds, trace = analyse(function), (), None
        yield Candidate(structure, index, tiling, run_seconds, trace, trial.origin, traffic, THREADS)


def replay(function: Any, trace: Any) -> Any:
    """Return the module of a function with a trace applied to it, or of a recipe for it.

    Raises one of `REFUSED`, a RecipeError among them, if the trace or recipe does not fit.
    """
    return generated(function, trace) if is_recipe(trace) else replayed(function, trace).mod


@dataclass(frozen=True, slots=True)
class _Task:
    """What searching a structure needs besides the structure."""

    target: Any
    settings: SearchSettings
    runner: Runner
    schedules: Schedules | None


class _Tally:
    """Counts the trials that are left, for what is told of the progress."""

    def __init__(
        self, folder: Path, structures: Sequence[str], trials: int, progress: Callable[[Progress], None]
    ) -> None:
        self._structures, self._trials, self._progress = structures, trials, progress
        self._left = {}
        for structure in structures:
            record = read_record(folder / f"{structure}{SUFFIX}")
            self._left[structure] = trials - (_count(record) if record else 0)
        self._measured, self._wall_s = 0, 0.0

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self._measured += len(batch.trials)
        self._wall_s += batch.wall_s

    def tell(self, file: RecordFile) -> None:
        """Tell how far the search is, which is at a structure's record."""
        structure = file.header.structure
        # An earlier search may have made more.
        done = min(_count(file.record), self._trials)
        self._left[structure] = 0 if _is_exhausted(file.record) else self._trials - done
        left = sum(max(0, trials) for trials in self._left.values())
        mean_s = self._wall_s / self._measured if self._measured else None
        number = self._structures.index(structure) + 1
        # Schedules that were written by hand are measured even if they are more than the trials.
        trials = max(self._trials, done)
        self._progress(Progress(structure, number, len(self._structures), done, trials, left, mean_s))


def _search_structure(task: _Task, function: Any, file: RecordFile, tally: _Tally) -> str | None:
    """Search a structure; return why it has no candidate that ran, None if it has one."""
    tally.tell(file)
    try:
        _StructureSearch(task, function, file, tally).run()
    except MeasureError:
        raise
    except Exception as error:
        log.exception("the search of %s failed", file.header.structure)
        file.end(EarlyEnd(FAILED, f"{type(error).__name__}: {error}".strip()[-ERROR_CHARACTERS:]))
    return _why_none(file.record)


def _header(structure: str, target: Any, settings: SearchSettings) -> Header:
    cpu, cores = str(target.attrs["mcpu"]), int(target.attrs["num-cores"])
    return Header(structure, cpu, cores, THREADS, settings.seed, settings.repeats)


def _count(record: Record) -> int:
    """Return how many of a search's trials a record has: recipes are measured in addition."""
    return sum(trial.origin != RECIPE for trial in record.trials)


def _is_exhausted(record: Record) -> bool:
    return record.ending is not None and record.ending.kind == EXHAUSTED


def _why_none(record: Record) -> str | None:
    """Return why a record has no candidate that ran; None if it has one."""
    if any(trial.run_seconds for trial in record.trials):
        return None
    if record.ending is not None:
        return record.ending.reason
    first = record.trials[0].error if record.trials else "there were no trials"
    return f"none of {len(record.trials)} candidates ran; the first: {first}"


class _StructureSearch:
    """The search of one structure: makes the trials that its record lacks, and writes each batch into it."""

    def __init__(self, task: _Task, function: Any, file: RecordFile, tally: _Tally) -> None:
        self._task, self._function, self._file, self._tally = task, function, file, tally
        self._started_s = time.perf_counter()

    def run(self) -> None:
        """Search until the record has its recipes and trials, or there are no more candidates."""
        if self._task.settings.few:
            self._measure_few()
            return
        self._measure_recipes()
        own = _own_schedules(self._task, self._function, self._file)
        if not own and (self._missing() <= 0 or _is_exhausted(self._file.record)):
            return
        evolution = _evolution(self._task, self._function, self._file.record)
        if own:
            self._measure(evolution, own, WRITTEN)
        if self._missing() <= 0:
            return
        evolution.start(self._missing())
        while self._missing() > 0:
            if not (proposed := evolution.propose()):
                count = _count(self._file.record)
                self._file.end(EarlyEnd(EXHAUSTED, f"there were no more candidates after {count}"))
                break
            self._measure(evolution, proposed, SEARCHED)

    def _measure_few(self) -> None:
        """Measure a few recipes and schedules written by hand, if nothing ran yet, or a plain one."""
        few = self._task.settings.few
        if any(one.run_seconds for one in self._file.record.trials):
            return
        # The first ones are nearly as good as the best: of the shipped records they are the likely winners.
        recipes = _fresh_recipes(self._task, self._function, self._file)[:few]
        own = _own_schedules(self._task, self._function, self._file)[:few]
        if not (recipes or own):
            own = list(map(measurable, plain_schedules(self._function, self._task.target)))
        # At once, so that all cores build.
        measured = self._run([*(item for _, item in recipes), *map(_build_item, own)])
        if recipes:
            self._keep([trace for trace, _ in recipes], measured[: len(recipes)], RECIPE)
        if own:
            self._keep([plain(one.sch.trace.as_json()) for one in own], measured[len(recipes) :], WRITTEN)
        if not any(one.run_seconds for one in self._file.record.trials) and recipes and not own:
            plain_ones = list(map(measurable, plain_schedules(self._function, self._task.target)))
            measured = self._run(list(map(_build_item, plain_ones)))
            self._keep([plain(one.sch.trace.as_json()) for one in plain_ones], measured, WRITTEN)

    def _missing(self) -> int:
        return self._task.settings.trials - _count(self._file.record)

    def _measure_recipes(self) -> None:
        """Measure the recipes that the record lacks; the evolution knows nothing of them."""
        ending, batch = self._file.record.ending, self._task.settings.batch
        fresh = _fresh_recipes(self._task, self._function, self._file)
        for start in range(0, len(fresh), batch):
            traces, items = zip(*fresh[start : start + batch], strict=True)
            self._keep(traces, self._run(items), RECIPE)
        if fresh and ending is not None and ending.kind == EXHAUSTED:
            # A batch opens a record that had ended; there are no more candidates than before.
            self._file.end(ending)

    def _measure(self, evolution: Evolution, candidates: Sequence[Any], origin: Origin) -> None:
        measured = self._run(list(map(_build_item, candidates)))
        evolution.learn(candidates, [one.run_seconds for one in measured], origin == SEARCHED)
        self._keep([plain(one.sch.trace.as_json()) for one in candidates], measured, origin)

    def _run(self, items: Sequence[BuildItem]) -> list[Measured]:
        return self._task.runner.measure(items, _best_s(self._file.record))

    def _keep(self, traces: Sequence[Any], measured: Sequence[Measured], origin: Origin) -> None:
        trials = (
            SearchTrial(trace, one.run_seconds, origin, one.error)
            for trace, one in zip(traces, measured, strict=True)
        )
        now_s = time.perf_counter()
        batch = Batch(tuple(trials), now_s - self._started_s, host_cpu())
        self._started_s = now_s
        self._file.append(batch)
        self._tally.add(batch)
        self._tally.tell(self._file)


def _fresh_recipes(task: _Task, function: Any, file: RecordFile) -> Sequence[tuple[Any, BuildItem]]:
    """Return the recipes that the record lacks, each with what is built and measured of it."""
    known = {_text(trial.trace) for trial in file.record.trials if trial.origin == RECIPE}
    try:
        listed = {_text(trace): trace for trace in recipes(function, task.target)}
    except Exception as error:
        log.warning("the recipes for %s are left out: %s", file.header.structure, error)
        return []
    fresh: list[tuple[Any, BuildItem]] = []
    for text, trace in listed.items():
        if text in known:
            continue
        try:
            fresh.append((trace, measured_kernel(generated(function, trace))))
        except Exception as error:
            log.warning("the recipe %s for %s is left out: %s", text, file.header.structure, error)
    return fresh


def _own_schedules(task: _Task, function: Any, file: RecordFile) -> list[Any]:
    """Return the candidates written by hand that the record lacks."""
    if task.schedules is None:
        return []
    known = {_text(trial.trace) for trial in file.record.trials if trial.origin == WRITTEN}
    try:
        written = task.schedules(function, task.target)
        fresh = {_text(plain(one.trace.as_json())): one for one in written}
    except Exception as error:
        log.warning("the schedules written for %s are left out: %s", file.header.structure, error)
        return []
    return [measurable(one) for text, one in fresh.items() if text not in known]


def _evolution(task: _Task, function: Any, record: Record) -> Evolution:
    """Return the evolution that has learned what the record holds."""
    settings, done = task.settings, _count(record)
    evolution = Evolution(
        function,
        task.target,
        population=settings.population,
        generations=settings.generations,
        batch=settings.batch,
        # A search that goes on must not propose once more what it did at its start.
        seed=settings.seed + done,
    )
    candidates, run_seconds = [], []
    for trial in record.trials:
        if is_recipe(trial.trace):
            continue  # no schedule: there is nothing to mutate
        try:
            candidates.append(measurable(replayed(function, trial.trace)))
        except REFUSED:
            continue
        run_seconds.append(trial.run_seconds)
    if candidates:
        evolution.learn(candidates, run_seconds, proposed=False)
    return evolution


def _build_item(candidate: Any) -> BuildItem:
    arguments = [
        (str(info.dtype), tuple(int(extent) for extent in info.shape)) for info in candidate.args_info
    ]
    return candidate.sch.mod, arguments


def _best_s(record: Record) -> float:
    """Return the fastest median of a record in seconds; infinity if nothing ran."""
    return min((median(one.run_seconds) for one in record.trials if one.run_seconds), default=float("inf"))


def _text(trace: Any) -> str:
    # Sorted, as a record keeps the keys of a recipe.
    return json.dumps(trace, sort_keys=True, separators=(",", ":"))
