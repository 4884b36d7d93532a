"""How users' own models fare: files that others made, checked, served from nothing and searched.

Goals: every file served but those that hold what is beyond, none checked in more than 30 s, and those of
ResNet-50's size at most ready 60 s after they came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter

from veltair.config import Config
from veltair.evaluation.benchmarks.compiler import CHOOSE_S, write_random_samples
from veltair.evaluation.benchmarks.real_files import RealFile, read_found
from veltair.evaluation.benchmarks.served_file import (
    CHECK,
    SEARCH,
    SERVE,
    Checked,
    Order,
    Served,
    in_fresh_process,
)
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, write_benchmark
from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.runtimes.paired_latency import compare
from veltair.evaluation.runtimes.timed_process import OURS, TimedProcess
from veltair.machine.steps import host_cores
from veltair.provenance import write_atomically

COMMAND = "snakemake --cores all benchmarks_models"
# As short as a search is: schedules by hand and recipes, which every search measures first.
SHORT_TRIALS = 1
COMPARE_S = 10.0


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of a file. What was not done is 0: it was not asked for, or the file is not there.

    `ready_s` is from the file to the first right answer with `search.missing: own`, `own_s` the part of that
    in which schedules are measured; `searched_s` the same of a search. `ratios` are latencies so ÷ after the
    search, of rounds.
    """

    name: str
    absent: str
    beyond: str
    check_s: float = 0.0
    checked: Checked | None = None
    ready_s: float = 0.0
    own_s: float = 0.0
    searched_s: float = 0.0
    ratios: tuple[float, ...] = ()

    @property
    def served(self) -> bool:
        """Whether it was found right beside ONNX Runtime."""
        return self.checked is not None and not self.checked.refused


def measure_file(
    config: Config, file: str, wanted: RealFile, found: Path, machine: Path, work: Path, output: Path
) -> None:
    """Check a file of the list, serve and search it if the list says so, and write the result as JSON.

    `wanted` is what the list says of it, `found` what `fetch_real_files` wrote, `work` a folder for what is
    made on the way.
    """
    here = read_found(found)[file]
    if here.path is None:
        result = FileResult(file, here.reason, wanted.beyond)
    else:
        result = _measured(config, file, wanted, here.path.absolute(), machine, work / file)
    print(_told(result), flush=True)
    write_atomically({output: TypeAdapter(FileResult).dump_json(result, indent=2) + b"\n"})


def _measured(config: Config, name: str, file: RealFile, path: Path, machine: Path, work: Path) -> FileResult:
    def order(task: str) -> Order:
        return Order(
            *(task, path, file.shapes, file.constants, work / task, machine),
            search={**config.search.model_dump(mode="json"), "reuse": True, "trials": SHORT_TRIALS},
            select=config.select.model_dump(mode="json"),
            cpu=config.build.cpu,
            tolerance=config.oracle.tolerance,
        )

    checked, check_s = in_fresh_process(order(CHECK), Checked)
    if checked.refused or not file.serves:
        return FileResult(name, "", file.beyond, check_s, checked)
    own, ready_s = in_fresh_process(order(SERVE), Served)
    if not file.searches:
        return FileResult(name, "", file.beyond, check_s, checked, ready_s, own.searched_s)
    searched, _ = in_fresh_process(order(SEARCH), Served)
    ratios = latency_ratios(own.build, searched.build)
    return FileResult(
        name, "", file.beyond, check_s, checked, ready_s, own.searched_s, searched.searched_s, ratios
    )


def latency_ratios(own: Path, searched: Path) -> tuple[float, ...]:
    """Return the latency of one build ÷ that of another of the same model, on all cores, of rounds."""
    with TemporaryDirectory() as folder:
        samples = write_random_samples(own, Path(folder))
        with (
            TimedProcess(OURS, searched, samples, host_cores()) as after,
            TimedProcess(OURS, own, samples, host_cores()) as before,
        ):
            after.choose(CHOOSE_S)
            before.choose(CHOOSE_S)
            return compare(after, before, COMPARE_S).ratios


def write_models(config: Config, results: Sequence[Path], output: Path, report: Path) -> None:
    """Gather the results of all files: figures, and a table of the files as Markdown."""
    read = [TypeAdapter(FileResult).validate_json(path.read_bytes()) for path in results]
    write_benchmark(output, model_figures(read), config, list(results))
    write_atomically({report: file_table(read).encode()})


def model_figures(results: Sequence[FileResult]) -> dict[str, BenchmarkResult]:
    """Return the figures; those of which no file was there are left out."""
    here = [one for one in results if one.checked is not None]
    wanted = [one for one in here if not one.beyond]
    served = [one for one in wanted if one.served]
    beyond, absent = len(here) - len(wanted), len(results) - len(here)
    figures = {
        "real_files_served": _count(
            len(served),
            f"files of {len(wanted)} to be served; {beyond} hold what is not, {absent} were not there",
        ),
        "real_files_served_beyond": _count(
            sum(one.served for one in here if one.beyond), "files served that hold what is not to be served"
        ),
    }
    lists: Mapping[str, tuple[str, list[float]]] = {
        "check_seconds_max": ("s, longest of files", [one.check_s for one in here]),
        "relative_error_max": (
            "relative to ONNX Runtime, worst of files served",
            [one.checked.error for one in here if one.checked and one.served],
        ),
        "upload_to_ready_s": (
            "s, longest of files, `search.missing: own`",
            [one.ready_s for one in here if one.ready_s],
        ),
    }
    for name, (unit, samples) in lists.items():
        if samples:
            figures[name] = BenchmarkResult(max(samples), unit, tuple(samples), COMMAND)
    figures |= _estimate_figures(here)
    ratios = tuple(geometric_mean(one.ratios) for one in here if one.ratios)
    if ratios:
        figures["own_latency_ratio"] = BenchmarkResult(
            geometric_mean(ratios), "latency so ÷ after a search, geometric mean of files", ratios, COMMAND
        )
    return figures


def _estimate_figures(results: Sequence[FileResult]) -> dict[str, BenchmarkResult]:
    pairs = {
        "search_estimate_ratio": [
            (one.checked.estimated_s, one.searched_s) for one in results if one.checked and one.searched_s
        ],
        "own_estimate_ratio": [
            (one.checked.own_estimated_s, one.own_s) for one in results if one.checked and one.own_s
        ],
    }
    figures = {}
    for name, both in pairs.items():
        ratios = tuple(estimated / happened for estimated, happened in both if estimated)
        if ratios:
            furthest = max(ratios, key=lambda ratio: max(ratio, 1 / ratio))
            unit = "estimated ÷ taken, furthest from 1 of files"
            figures[name] = BenchmarkResult(furthest, unit, ratios, COMMAND)
    return figures


def _count(number: int, unit: str) -> BenchmarkResult:
    return BenchmarkResult(number, unit, (number,), COMMAND)


def file_table(results: Sequence[FileResult]) -> str:
    """Return a table of the files: what each took, or why it is not served."""
    header = ("file", "layers", "GMACs", "off ONNX Runtime", "check, s", "ready, s", "why not")
    return "\n".join(markdown_table(header, [_row(one) for one in results])) + "\n"


def _row(result: FileResult) -> tuple[str, ...]:
    checked = result.checked
    if checked is None:
        return result.name, "", "", "", "", "", result.absent
    if checked.refused:
        return result.name, "", "", "", f"{result.check_s:.1f}", "", checked.refused
    return (
        *(result.name, str(checked.layers), f"{checked.macs / 1e9:.2f}", f"{checked.error:.2g}"),
        *(f"{result.check_s:.1f}", f"{result.ready_s:.0f}" if result.ready_s else "", ""),
    )


def _told(result: FileResult) -> str:
    return " | ".join(cell for cell in _row(result) if cell)
