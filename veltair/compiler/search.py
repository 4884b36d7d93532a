"""ONE MetaSchedule search per structure, which keeps every candidate and its raw times."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm import s_tir
from tvm.error import InternalError
from tvm.ir import IRModule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir import renew_defs
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock
from tvm.tirx import PrimFunc
from tvm.tirx import build as tvm_build

from veltair.compiler.target import use_all_cores
from veltair.compiler.tiling import read_tiling
from veltair.compiler.version import Candidate

RECORDS = "database_tuning_record.json"
WORKLOADS = "database_workload.json"
DONE = "done.json"


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to search: `trials` candidates a structure, measured in batches, `repeats` cold runs each."""

    trials: int
    seed: int
    population: int = 128
    generations: int = 3
    batch: int = 64
    repeats: int = 10
    build_timeout_s: float = 30.0
    run_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"search.trials is {self.trials}; give 1 or more")


def search(
    functions: Mapping[str, Any],
    target: Any,
    settings: SearchSettings,
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> list[str]:
    """Search each structure once, each in its folder; return the structures that gave no candidate.

    Structures already searched are passed over, so an interrupted search goes on where it was. `progress`
    is told the structure, its number and how many there are.
    """
    use_all_cores()
    failed = []
    for number, (structure, function) in enumerate(functions.items(), start=1):
        progress(structure, number, len(functions))
        place = folder / structure
        if not _is_done(place, settings):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            _search_structure(function, target, settings, place)
            (place / DONE).write_text(json.dumps(asdict(settings)))
        if not any(record.run_seconds for record in read_candidates(structure, function, place)):
            failed.append(structure)
    return failed


def _is_done(place: Path, settings: SearchSettings) -> bool:
    """Return whether a structure was searched to its end, with these settings."""
    try:
        return bool(json.loads((place / DONE).read_text()) == asdict(settings))
    except (OSError, ValueError):
        return False


def _search_structure(function: Any, target: Any, settings: SearchSettings, place: Path) -> None:
    context = ms.TuneContext(
        mod=_module(function),
        target=target,
        # The rules are named because finding them from the target imports TVM's tensor intrinsics: 12 s.
        space_generator=ms.space_generator.PostOrderApply(
            sch_rules="llvm", postprocs="llvm", mutator_probs="llvm"
        ),
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=settings.population, genetic_num_iters=settings.generations
        ),
        task_name="main",
        rand_state=settings.seed,
        num_threads="logical",
        logger=logging.getLogger("veltair.search"),
    )
    ms.tune.tune_tasks(
        tasks=[context.clone()],
        task_weights=[1.0],
        work_dir=str(place),
        max_trials_global=settings.trials,
        num_trials_per_iter=min(settings.batch, settings.trials),
        builder=ms.builder.LocalBuilder(f_build=build_candidate, timeout_sec=settings.build_timeout_s),
        runner=ms.runner.LocalRunner(
            timeout_sec=settings.run_timeout_s,
            evaluator_config=ms.runner.EvaluatorConfig(
                number=1, repeat=settings.repeats, min_repeat_ms=0, enable_cpu_cache_flush=True
            ),
        ),
        database=ms.database.JSONDatabase(work_dir=str(place)),
        cost_model="xgb",
        measure_callbacks="default",
        task_scheduler="round-robin",
    )


def build_candidate(module: Any, target: Any, _params: Any = None) -> Any:
    """Build one candidate in a worker process, its weights taken as packed already."""
    return tvm_build(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module), target=target)


def read_candidates(structure: str, function: Any, place: Path) -> Iterator[Candidate]:
    """Yield every candidate of a finished search, in the order in which it was measured."""
    lines = (place / RECORDS).read_text().splitlines() if (place / RECORDS).exists() else []
    for index, line in enumerate(lines):
        _, (trace, run_seconds, _, _) = json.loads(line)
        # MetaSchedule writes 1e10 s for a candidate that failed to build or to run.
        good = tuple(float(second) for second in run_seconds or () if float(second) < 1e9)
        try:
            scheduled = replay(function, trace)["main"]
        except (InternalError, s_tir.ScheduleError):
            # Its trace does not apply to the layer: it cannot be built, so it counts as one that did not run.
            yield Candidate(structure, index, read_tiling(function), (), None)
        else:
            yield Candidate(structure, index, read_tiling(scheduled), good, trace)


def replay(function: Any, trace: Any) -> Any:
    """Return the module of a function with a trace applied to it."""
    schedule = s_tir.Schedule(_module(function), debug_mask="none")
    s_tir.Trace.apply_json_to_schedule(trace, schedule)
    return schedule.mod


def _module(function: PrimFunc) -> IRModule:
    # A schedule may rewrite the very function it was made from (seen with rfactor): give it one of its own.
    return IRModule({"main": renew_defs(function).with_attr("global_symbol", "main")})
