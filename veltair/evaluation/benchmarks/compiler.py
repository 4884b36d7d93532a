"""How fast the compiler's kernels are beside ONNX Runtime's and OpenVINO's, and the compiler itself."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean, median
from tempfile import TemporaryDirectory
from typing import Any

from veltair.compiler.build.build import read_plan
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.frontend.importer import ImportedModel
from veltair.compiler.frontend.samples import random_samples, relative_error
from veltair.compiler.search.progress import Progress
from veltair.compiler.search.records import SUFFIX, read_record
from veltair.compiler.search.schedules import own_schedules
from veltair.compiler.search.search import SearchSettings, read_candidates, search
from veltair.compiler.search.target import cpu_target
from veltair.compiler.select.core_counts import doubling
from veltair.compiler.select.select import Selection, rounds_costs, select
from veltair.compiler.steps import build_model, read_model
from veltair.config import Config
from veltair.evaluation.benchmarks.search_ablation import Choose, PassComparison, compare_passes
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result, write_benchmark
from veltair.evaluation.runtimes.paired_latency import PairedLatencies, compare
from veltair.evaluation.runtimes.timed_process import (
    ONNX_RUNTIME,
    OPENVINO,
    OURS,
    TimedProcess,
    write_samples,
)
from veltair.machine.topology.described import read_machine
from veltair.machine.topology.topology import Machine

COMMAND = "snakemake --cores all benchmarks_compiler --configfile workflow/config/compiler.yaml"
CHOOSE_S, COMPARE_S = 8.0, 15.0  # for a model on one count of cores
BUILT = "resnet50"  # the model whose build and layers are timed, where the configuration has it
SEARCHED_LAYERS, SEARCH_TRIALS, BY_HAND = 3, 32, 16
PRESSURE_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
RUNTIME_NAMES = {ONNX_RUNTIME: "ONNX Runtime", OPENVINO: "OpenVINO"}

# By the label of the cores and the model.
Comparisons = Mapping[tuple[str, str], PairedLatencies]


@dataclass(frozen=True, slots=True)
class CompilerFiles:
    """What is measured: ONNX files and built models by name, the candidates' stores, and this machine."""

    models: Mapping[str, Path]
    builds: Mapping[str, Path]
    stores: Sequence[Path]
    machine: Path


def write_compiler(config: Config, files: CompilerFiles, output: Path) -> None:
    """Measure all figures and write them."""
    machine = read_machine(files.machine)
    compared = kernel_comparisons(config, files, machine, runtimes_here())
    figures = kernel_figures(compared[ONNX_RUNTIME])
    if OPENVINO in compared:
        figures |= openvino_figures(compared[OPENVINO])
    first = next(iter(files.builds))
    for label, cores in core_sets(machine).items():
        same = compare_with_itself(files.builds[first], cores)
        figures[f"ratio_self_{label}_{first}"] = median_result(
            same.ratios, "ours ÷ ours, median of rounds", COMMAND
        )
    imports = tuple(_timed(read_model, path) for path in files.models.values())
    figures["import_s"] = BenchmarkResult(max(imports), "s, longest of models", imports, COMMAND)
    built = BUILT if BUILT in files.models else first
    with TemporaryDirectory() as folder:
        selection = Selection(**config.select.model_dump())
        order = (
            *(files.stores, selection, machine.cores, config.search.trials),
            *(Path(folder), None, config.build.cpu),
        )
        seconds = _timed(build_model, files.models[built], *order)
        figures[f"build_s_{built}"] = median_result((seconds,), "s, all versions, nothing cached", COMMAND)
    with TemporaryDirectory() as folder:
        figures |= search_figures(config, read_model(files.models[built]), machine, Path(folder))
    inputs = [*files.models.values(), *(path / "plan.json" for path in files.builds.values()), files.machine]
    write_benchmark(output, figures, config, inputs)


def core_sets(machine: Machine) -> dict[str, tuple[int, ...]]:
    """Return the cores of each comparison: one, and all."""
    return {"1core": machine.core_ids[:1], "allcores": machine.core_ids}


def runtimes_here() -> tuple[str, ...]:
    """Return the runtimes that ours is compared with here; says which one is not installed."""
    if find_spec(OPENVINO):
        return ONNX_RUNTIME, OPENVINO
    print("no figures beside OpenVINO: it is not installed (docs/kernels.md says how)", flush=True)
    return (ONNX_RUNTIME,)


def kernel_comparisons(
    config: Config, files: CompilerFiles, machine: Machine, runtimes: Sequence[str]
) -> dict[str, Comparisons]:
    """Compare each model with some runtimes, and return what came out by runtime."""
    found: dict[str, dict[tuple[str, str], PairedLatencies]] = {runtime: {} for runtime in runtimes}
    for name, model in files.models.items():
        for label, cores in core_sets(machine).items():
            compared = compare_with(runtimes, model, files.builds[name], cores, config.oracle.tolerance)
            for runtime, one in compared.items():
                found[runtime][label, name] = one
                print(
                    f"{name}, {label}: {1e3 * median(one.ours_s):.2f} ms, {RUNTIME_NAMES[runtime]} "
                    f"{1e3 * median(one.theirs_s):.2f} ms, ratio {one.ratio:.3f} ({len(one.ratios)} rounds)",
                    flush=True,
                )
    return dict(found)


def compare_with(
    runtimes: Sequence[str],
    model: Path,
    build: Path,
    cores: Sequence[int],
    tolerance: float,
    budget_s: float = COMPARE_S,
) -> dict[str, PairedLatencies]:
    """Compare a built model with some runtimes, one after the other, on the same cores and inputs.

    Ours runs, in each layer, the version that was fastest in the network on these cores in runs before.
    Raises ValueError if the answers differ by more than `tolerance`, TimedProcessError if one of them fails.
    """
    found = {}
    with TemporaryDirectory() as folder:
        samples = write_random_samples(build, Path(folder))
        with TimedProcess(OURS, build, samples, cores) as ours:
            ours.choose(min(CHOOSE_S, budget_s))
            for runtime in runtimes:
                with TimedProcess(runtime, model, samples, cores) as theirs:
                    check_equal(model.stem, ours, theirs, RUNTIME_NAMES[runtime], tolerance)
                    found[runtime] = compare(ours, theirs, budget_s)
    return found


def compare_with_itself(build: Path, cores: Sequence[int], budget_s: float = COMPARE_S) -> PairedLatencies:
    """Compare a built model with itself: what the ratio is off from 1 is the comparison's own error."""
    with TemporaryDirectory() as folder:
        samples = write_random_samples(build, Path(folder))
        same = (OURS, build, samples, cores)
        with TimedProcess(*same) as one, TimedProcess(*same) as other:
            return compare(one, other, budget_s)


def kernel_figures(comparisons: Comparisons) -> dict[str, BenchmarkResult]:
    """Return each model's ratio and latencies, the geometric mean of ratios by cores, and the least ratio.

    Samples of a model's figures are its rounds, those of a mean and of the least the models' ratios.
    """
    unit = f"{RUNTIME_NAMES[ONNX_RUNTIME]} ÷ ours"
    figures: dict[str, BenchmarkResult] = {}
    for (label, name), one in comparisons.items():
        figures[f"ratio_{label}_{name}"] = median_result(one.ratios, unit, COMMAND)
        figures[f"latency_{label}_{name}"] = _milliseconds(one.ours_s)
        figures[f"latency_onnxruntime_{label}_{name}"] = _milliseconds(one.theirs_s)
    for label, ratios in _ratios(comparisons).items():
        figures[f"kernel_ratio_{label}_geomean"] = _mean_ratio(ratios, unit)
    ratios = tuple(one.ratio for one in comparisons.values())
    figures["kernel_ratio_min"] = BenchmarkResult(min(ratios), f"{unit}, least of models", ratios, COMMAND)
    return figures


def openvino_figures(comparisons: Comparisons) -> dict[str, BenchmarkResult]:
    """Return each model's ratio and OpenVINO's latency, and the geometric means of ratios: by cores, all."""
    unit = f"{RUNTIME_NAMES[OPENVINO]} ÷ ours"
    figures: dict[str, BenchmarkResult] = {}
    for (label, name), one in comparisons.items():
        figures[f"ratio_openvino_{label}_{name}"] = median_result(one.ratios, unit, COMMAND)
        figures[f"latency_openvino_{label}_{name}"] = _milliseconds(one.theirs_s)
    for label, ratios in _ratios(comparisons).items():
        figures[f"kernel_ratio_openvino_{label}_geomean"] = _mean_ratio(ratios, unit)
    everything = tuple(one.ratio for one in comparisons.values())
    figures["kernel_ratio_openvino_geomean"] = _mean_ratio(everything, unit)
    return figures


def _ratios(comparisons: Comparisons) -> dict[str, tuple[float, ...]]:
    """Return the models' ratios by the label of the cores."""
    labels = dict.fromkeys(label for label, _ in comparisons)
    return {
        label: tuple(one.ratio for (cores, _), one in comparisons.items() if cores == label)
        for label in labels
    }


def _mean_ratio(ratios: tuple[float, ...], unit: str) -> BenchmarkResult:
    return BenchmarkResult(geometric_mean(ratios), f"{unit}, geometric mean of models", ratios, COMMAND)


def _milliseconds(seconds: Sequence[float]) -> BenchmarkResult:
    return median_result([1e3 * second for second in seconds], "ms", COMMAND)


def search_figures(
    config: Config, imported: ImportedModel, machine: Machine, folder: Path
) -> dict[str, BenchmarkResult]:
    """Search the heaviest layers of a model for real, alone and as `compare_passes` does.

    On a machine of one core the comparison of passes is left out, as a co-runner has no core there.
    """
    settings = SearchSettings(trials=SEARCH_TRIALS, seed=config.search.seed)
    target = cpu_target(config.search.cores, config.build.cpu)
    functions = heaviest(imported, SEARCHED_LAYERS)

    def search_all(chosen: Mapping[str, Any], index: Path) -> None:
        search(chosen, target, settings, index, _tell, partial(own_schedules, count=BY_HAND))

    def search_one(structure: str, function: Any, index: Path) -> Sequence[Candidate]:
        search_all({structure: function}, index)
        return tuple(read_candidates(structure, function, index))

    unit = f"{SEARCH_TRIALS} trials of each of {len(functions)} layers, {BY_HAND} of them by hand"
    wall_s = _timed(search_all, functions, folder / "alone")
    figures = trial_figures(functions, wall_s, folder / "alone", unit)
    if machine.cores < 2:
        print("one core: no search beside a co-runner", flush=True)
        return figures
    choose, index = _chooser(config, machine), folder / "passes"
    compared = compare_passes(functions, search_one, target, choose, machine, PRESSURE_LEVELS, index)
    return figures | pass_figures(compared, unit)


def trial_figures(
    functions: Mapping[str, Any], wall_s: float, records: Path, unit: str
) -> dict[str, BenchmarkResult]:
    """Return the seconds of a trial, and the milliseconds to analyse a candidate, of a search of `wall_s`.

    The value is of the whole search, its samples are of batches. The analysis replays a candidate's trace and
    reads its tiling and traffic; its samples are of structures.
    """
    batches: list[float] = []
    analysis_ms, trials = [], 0
    for structure, function in functions.items():
        record = read_record(records / f"{structure}{SUFFIX}")
        batches += [batch.seconds_per_trial for batch in record.batches] if record else []
        start_s = time.perf_counter()
        count = len(list(read_candidates(structure, function, records)))
        analysis_ms.append(1e3 * (time.perf_counter() - start_s) / count)
        trials += count
    return {
        "seconds_per_trial": BenchmarkResult(wall_s / trials, f"s, {unit}, mean", tuple(batches), COMMAND),
        "analysis_ms_per_candidate": median_result(analysis_ms, f"ms, {unit}", COMMAND),
    }


def pass_figures(compared: Sequence[PassComparison], unit: str) -> dict[str, BenchmarkResult]:
    """Return the ratio of wall times, all structures together, and the largest and the median loss."""
    single_s, separate_s = sum(one.single_s for one in compared), sum(sum(one.separate_s) for one in compared)
    losses = tuple(loss for one in compared for loss in one.losses)
    ratios = tuple(one.ratio for one in compared)
    at = f"share of time, {unit}, {len(compared[0].losses)} levels"
    return {
        "single_pass_ratio": BenchmarkResult(
            single_s / separate_s, f"wall time ÷ wall time, {unit}", ratios, COMMAND
        ),
        "single_pass_loss": BenchmarkResult(max(losses), f"{at}, largest", losses, COMMAND),
        "single_pass_loss_median": median_result(losses, f"{at}, median", COMMAND),
    }


def heaviest(imported: ImportedModel, count: int) -> dict[str, Any]:
    """Return the functions of the structures with most multiply-accumulates, over all their layers."""
    macs: Counter[str] = Counter()
    for layer in imported.model.layers:
        macs[layer.structure] += layer.macs
    functions = imported.functions()
    return {structure: functions[structure] for structure, _ in macs.most_common(count)}


def check_equal(name: str, ours: TimedProcess, theirs: TimedProcess, runtime: str, tolerance: float) -> None:
    """Raise ValueError if the answers of two networks to their samples differ by more than `tolerance`."""
    pairs = zip(ours.outputs(), theirs.outputs(), strict=True)
    error = max(relative_error(mine, right) for mine, right in pairs)
    if not error <= tolerance:
        raise ValueError(
            f"{name} answers with a relative error of {error:.2g} to {runtime} (allowed: {tolerance:g}); "
            "run rule `oracle` to find the version"
        )


def write_random_samples(build: Path, folder: Path) -> Path:
    """Write random inputs of a built model into a folder, and return the file."""
    samples = folder / "samples.npz"
    write_samples(samples, random_samples(read_plan(build).inputs, seed=0))
    return samples


def _chooser(config: Config, machine: Machine) -> Choose:
    """Return what selects versions as a build on this machine does."""
    selection = Selection(**config.select.model_dump())
    costs = rounds_costs(doubling(machine.cores))
    return lambda candidates: select(candidates, selection, costs)


def _tell(progress: Progress) -> None:
    print(progress, flush=True)


def _timed(work: Callable[..., object], *arguments: object) -> float:
    start_s = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start_s
