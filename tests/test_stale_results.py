"""What runs again after an edit: a made-up finished run, one line or one key changed, and the dry run."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.snakemake_runs import run_snakemake

ROOT = Path(__file__).parents[1]
STUDIED, POLICIES = ("Planaria", "FULL"), ("FcfsMin", "Planaria", "FULL")
MACHINES, MODELS = ("host", "threadripper-3990x"), ("resnet50", "mobilenet_v2")
CONFIG: dict[str, Any] = {
    "models": {
        "resnet50": {"builder": "models.resnet50:resnet50", "qos_ms": 15},
        "mobilenet_v2": {"builder": "models.mobilenet_v2:mobilenet_v2", "qos_ms": 10},
    },
    "workloads": {"mix": {"resnet50": 1, "mobilenet_v2": 1}},
    "policies": {
        "FcfsMin": {"path": "baselines.fcfs_min:FcfsMin"},
        "Planaria": {"path": "baselines.planaria:Planaria", "options": {"order": "fcfs"}},
        "FULL": {"path": "veltair.serving.policies.adaptive:VeltairFULL", "preset": "tuned"},
    },
    "measured": {"seconds": 4},
    "simulated": {"machines": list(MACHINES), "queries": 100, "loads": [0.5, 0.9]},
    "study": {
        "enabled": True,
        "policies": list(STUDIED),
        "granularity": {"policies": ["FcfsMin", "Planaria"]},
        "conflicts": {"policies": ["FULL"]},
        "scale": ["threadripper-3990x-8"],
    },
    "sensitivity": {
        "start": {"title": "a start", "key": "simulated.start_cost_us", "values": ["measured", 200]}
    },
    "figures": {"formats": ["png"]},
}

# A job by its message, in short.
SHORT = {
    r"Simulating (\S+), mix, on (\S+): QPS at 95 % QoS": r"capacity \1 \2",
    r"Simulating (\S+), mix, on (\S+): loads that all share": r"loads \1 \2",
    r"Measuring all policies, mix, on this machine.*": "measured",
    r"Simulating (\S+) at rates that all share": r"granularity \1",
    r"Simulating conflicts over time": "conflicts",
    r"Simulating under another assumption: (\S+), value (\d)": r"sensitivity \1 \2",
    r"Simulating \S+, of the scale": "scale",
    r"Building the versions of (\S+)": r"build \1",
    r"Probing this machine": "machine",
    r"Profiling all versions on this machine": "profile",
    r"Comparing selections of versions": "version study",
    r"Computing the metrics": "metrics",
    r"Computing core needs.*": "layers",
    r"Drawing the figures": "figures",
    r"Drawing the figures of the study": "paper figures",
    r"Drawing the figures about versions": "version figures",
    r"Writing (\S+) as ONNX": r"model \1",
    r"Modelling the costs on (\S+)": r"derive \1",
    r"Comparing every version of (\S+) with ONNX Runtime": r"oracle \1",
    r"Gathering the cells of the study": "study tables",
    r"Writing the summary": "summary",
    r"Judging the paper's claims": "claims",
}


def simulated(*policies: str, kinds: tuple[str, ...] = ("capacity", "loads")) -> set[str]:
    return {f"{kind} {policy} {machine}" for kind in kinds for policy in policies for machine in MACHINES}


SENSITIVITY = {"sensitivity _usual 0", "sensitivity start 1"}
GRANULARITY = {"granularity FcfsMin", "granularity Planaria"}
LOADS = simulated(*POLICIES, kinds=("loads",))
REPORTS = {"metrics", "figures", "summary", "paper figures", "claims"}
TABLES = {"study tables", *REPORTS}
SIMULATIONS = {*simulated(*POLICIES), *GRANULARITY, "conflicts", "scale", *SENSITIVITY}
# Rates are shares of Planaria's simulated capacity.
BY_CAPACITY = {*LOADS, *GRANULARITY, "conflicts"}
# All policies are measured in the same rounds.
MEASURED = {"measured"}
OF_PLANARIA = {*simulated("Planaria"), "scale", *SENSITIVITY, *BY_CAPACITY, *MEASURED, *TABLES}
AFTER_PROFILE = {
    *MEASURED,
    *("profile", "derive threadripper-3990x", "derive threadripper-3990x-8", "layers"),
    *("version study", "version figures"),
    *(SIMULATIONS | BY_CAPACITY | TABLES),
}

LINES = {
    "loop": ("veltair/serving/loop/open_queries.py", "query, next_layer = self._dequeue("),
    "base class of Planaria": ("veltair/serving/policies/elastic.py", "def allocate(self"),
    "base class of FcfsMin": ("baselines/fixed_blocks.py", "def allocate(self"),
    "C of Planaria": ("veltair/serving/policies/native/core_shares.c", "#include"),
    "simulator": ("veltair/serving/simulator/simulator.py", "def wait(self"),
    "simulator in C": ("veltair/serving/simulator/simulator_core.c", "#include"),
    "engine": ("veltair/serving/engine/native_engine.py", "def serve(self"),
    "workers in C": ("veltair/machine/workers/pool.c", "#include"),
    "choice of versions": ("veltair/compiler/select/select.py", "def select("),
    "metrics": ("veltair/evaluation/metrics/metrics.py", "def rates("),
    "figure": ("veltair/evaluation/figures/policy_plots.py", "def paper_qps_figure("),
    "model": ("models/resnet50.py", "def resnet50("),
}
AFTER_LINES: dict[str, set[str]] = {
    # The profile holds what blocks cost, by the engine, which the loop drives.
    "loop": AFTER_PROFILE,
    "base class of Planaria": OF_PLANARIA,
    "base class of FcfsMin": {
        *simulated("FcfsMin"),
        *MEASURED,
        "granularity FcfsMin",
        *TABLES,
    },
    "C of Planaria": OF_PLANARIA,
    "simulator": SIMULATIONS | TABLES,
    "simulator in C": SIMULATIONS | TABLES,
    "engine": AFTER_PROFILE,
    # The launch of a kernel, which machines are described by, is theirs.
    "workers in C": AFTER_PROFILE | {"machine"},
    "choice of versions": {*(f"{job} {model}" for job in ("build", "oracle") for model in MODELS)}
    | AFTER_PROFILE,
    "metrics": GRANULARITY | TABLES,
    "figure": {"figures", "summary", "paper figures"},
    "model": {"model resnet50", "build resnet50", "oracle resnet50", *AFTER_PROFILE},
}

KEYS: dict[str, tuple[tuple[str, ...], Any]] = {
    "figures": (("figures", "formats"), ["svg"]),
    "option of a policy": (("policies", "Planaria", "options", "order"), "edf"),
    "preset of a policy": (("policies", "FULL", "preset"), "paper"),
    "preset of the run": (("preset",), "tuned"),
    "queries": (("simulated", "queries"), 101),
    "loads": (("simulated", "loads"), [0.5, 0.8]),
    "seconds": (("measured", "seconds"), 5),
    "policy added": (("policies", "More"), {"path": "baselines.fcfs_min:FcfsMin"}),
    "value of an assumption added": (("sensitivity", "start", "values"), ["measured", 200, 300]),
    "target": (("models", "resnet50", "qos_ms"), 16),
}
AFTER_KEYS: dict[str, set[str]] = {
    "figures": {"figures", "paper figures", "version figures", "summary"},
    "option of a policy": OF_PLANARIA,
    "preset of a policy": {
        *(simulated("FULL") | MEASURED | SENSITIVITY | TABLES),
        *("conflicts", "scale"),
    },
    "preset of the run": OF_PLANARIA | simulated("FcfsMin"),
    "queries": SIMULATIONS | TABLES,
    "loads": LOADS | REPORTS,
    "seconds": MEASURED | REPORTS,
    "policy added": {*simulated("More"), *MEASURED, *REPORTS},
    "value of an assumption added": {"sensitivity start 2", "study tables", "paper figures", "claims"},
    "target": SIMULATIONS | MEASURED | {"layers"} | TABLES,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which every result of the configuration is there, though empty, and noted as its own."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    for name in ("workflow", "veltair", "baselines", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_config(folder, CONFIG)
    for line in snakemake(folder, "--summary").splitlines()[1:]:
        if line.count("\t") > 1:
            path = folder / line.partition("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    snakemake(folder, "--touch", "--forceall")
    return folder


def write_config(folder: Path, values: Any) -> None:
    (folder / "mine.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def snakemake(folder: Path, *arguments: str) -> str:
    """Run the workflow in a folder, on one core, and return what it prints."""
    done = run_snakemake(folder, "--cores", "1", "--configfile", "mine.yaml", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr if "-n" in arguments else done.stdout


def stale(folder: Path) -> set[str]:
    """Return the jobs that would run again, the default target left out."""
    printed = snakemake(folder, "-n")
    jobs = re.findall(r"^Job \d+: (.*)$", printed, re.MULTILINE)
    assert jobs or "Nothing to be done" in printed, printed
    return {_short(message) for message in jobs}


def _short(message: str) -> str:
    for pattern, short in SHORT.items():
        if found := re.fullmatch(pattern, message):
            return found.expand(short)
    return message


@pytest.fixture
def tree(finished: Path) -> Iterator[Path]:
    """The finished run, whose code and configuration are as before after the test."""
    before = {finished / file: (finished / file).read_text() for file, _ in LINES.values()}
    yield finished
    write_config(finished, CONFIG)
    for path, text in before.items():
        path.write_text(text)


def test_a_finished_run_has_nothing_to_do(tree: Path) -> None:
    assert stale(tree) == set()


@pytest.mark.parametrize("name", LINES)
def test_a_line_repeats_what_runs_through_it_and_nothing_else(tree: Path, name: str) -> None:
    file, line = LINES[name]
    lines = (tree / file).read_text().splitlines()
    (number, *_) = [number for number, text in enumerate(lines) if line in text]
    lines[number] += "  // new" if file.endswith(".c") else "  # new"
    (tree / file).write_text("\n".join(lines) + "\n")
    assert stale(tree) == AFTER_LINES[name]


@pytest.mark.parametrize("name", KEYS)
def test_a_key_repeats_what_reads_it_and_nothing_else(tree: Path, name: str) -> None:
    path, value = KEYS[name]
    write_config(tree, _changed(CONFIG, path, value))
    assert stale(tree) == AFTER_KEYS[name]


def _changed(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**values, first: _changed(values[first], tuple(rest), value) if rest else value}
