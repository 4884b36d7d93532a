import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from grimp import ImportGraph, build_graph
from importlinter import Contract
from importlinter.api import read_configuration
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract

ROOT = Path(__file__).parents[1]
PACKAGES = ("veltair", "baselines", "models")
CONFIGURATION = read_configuration(str(ROOT / "pyproject.toml"))
NAMES = {each["id"]: each["name"] for each in CONFIGURATION["contracts_options"]}
KINDS: dict[str, type[Contract]] = {"layers": LayersContract, "forbidden": ForbiddenContract}

# Who may import what is confined to few files, besides the contracts of import-linter in pyproject.toml.
# TVM compiles, and in machine/ runs: library loads built kernels, the workers and the profile run them.
RUNS_KERNELS = (
    "veltair/machine/models/library.py",
    "veltair/machine/workers/pool.py",
    "veltair/machine/profile/profile.py",
)
CONFINED = {
    "tvm": ("veltair/compiler/", *RUNS_KERNELS),
    "tvm_ffi": ("veltair/compiler/", *RUNS_KERNELS),
    "mlperf_loadgen": ("veltair/evaluation/loadgen/child.py",),
    "openvino": ("veltair/evaluation/runtimes/openvino_server.py",),
    "simpy": ("veltair/evaluation/benchmarks/simpy_queue.py",),
}
# What decides or counts must depend on its arguments alone: whole rooms, and single files of others.
PURE = (
    "veltair/compiler/footprint/",
    "veltair/compiler/frontend/model.py",
    "veltair/compiler/select/select.py",
    "veltair/compiler/recipes/depthwise_plan.py",
    "veltair/compiler/recipes/direct_plan.py",
    "veltair/compiler/recipes/plan.py",
    "veltair/compiler/recipes/recipe.py",
    "veltair/compiler/recipes/sizes.py",
    "veltair/compiler/recipes/sum_shapes.py",
    "veltair/compiler/recipes/transforms.py",
    "veltair/compiler/recipes/winograd_plan.py",
    "veltair/compiler/registers.py",
    "veltair/evaluation/benchmarks/layer_groups.py",
    "veltair/evaluation/benchmarks/layer_operators.py",
    "veltair/evaluation/benchmarks/onnx_profile.py",
    "veltair/evaluation/experiment/invariants.py",
    "veltair/evaluation/metrics/",
    "veltair/evaluation/validation/goals.py",
    "veltair/evaluation/validation/perturbed_costs.py",
    "veltair/evaluation/validation/trace_errors.py",
    "veltair/machine/costs/candidate_costs.py",
    "veltair/machine/costs/disturbance.py",
    "veltair/evaluation/versions/version_study.py",
    "veltair/machine/contention/",
    "veltair/machine/costs/cost_model.py",
    "veltair/machine/costs/cost_model_fit.py",
    "veltair/machine/costs/table.py",
    "veltair/machine/models/activations.py",
    "veltair/machine/models/buffers.py",
    "veltair/machine/models/memory_budget.py",
    "veltair/machine/topology/placement.py",
    "veltair/serving/loop/",
    "veltair/serving/policies/",
    "veltair/wire/",
    "baselines/",
)
# They find a class by its path or compile what decides; neither is part of a decision.
NOT_DECIDING = (
    "veltair/evaluation/metrics/records.py",  # reads and writes the table that metrics are computed from
    "veltair/serving/policies/native_shares.py",
    "veltair/serving/policies/presets.py",
)
IMPURE_MODULES = {
    *(
        "asyncio",
        "concurrent",
        "multiprocessing",
        "queue",
        "sched",
        "signal",
        "threading",
        "_thread",
    ),  # threads
    *("datetime", "time", "timeit", "calendar"),  # clocks
    *("random", "secrets", "uuid"),  # randomness
    *("fileinput", "glob", "io", "logging", "mmap", "os", "pathlib", "shutil", "socket", "sqlite3"),  # I/O
    *("subprocess", "sys", "tempfile", "urllib", "json", "pickle", "yaml", "pyarrow", "requests"),
}
# All that loop and decisions in C may know of the system.
PURE_HEADERS = {"math.h", "stdbool.h", "stdint.h", "stdlib.h", "string.h"}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def _sources() -> list[Path]:
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    # What the Pythons of other environments run is no code of these packages.
    return sorted(path for path in found if ROOT / "veltair" / "data" / "rivals" not in path.parents)


def _pure_files() -> list[Path]:
    pure = [path for name in PURE for path in (sorted((ROOT / name).glob("*.py")) or [ROOT / name])]
    return [path for path in pure if path.relative_to(ROOT).as_posix() not in NOT_DECIDING]


def _imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of every imported module or name, in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, a.value) for a in node.args if isinstance(a, ast.Constant))


def _misplaced(source: str, file: str) -> list[str]:
    """Return the imports of a file that only other files may have."""
    return [
        f"{file}:{line} imports {name}"
        for line, name in _imports(source)
        for top, homes in CONFINED.items()
        if name.split(".")[0] == top and not file.startswith(homes)
    ]


def _impure(source: str, file: str) -> list[str]:
    """Return what a file does with clocks, threads, randomness of its own, or input and output."""
    found = [
        f"{file}:{line} imports {name}"
        for line, name in _imports(source)
        if name.split(".")[0] in IMPURE_MODULES or name.startswith("numpy.random")
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{file}:{node.lineno} calls {node.func.id}")
        # A generator that is passed in is fine; making one, or drawing from the global one, is not.
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
            found += [] if node.attr == "Generator" else [f"{file}:{node.lineno} uses {ast.unparse(node)}"]
    return found


def _compiler_internals(source: str, file: str) -> list[str]:
    """Return what a baseline imports of the compiler besides the description of a model."""
    return [
        f"{file}:{line} imports {name}"
        for line, name in _imports(source)
        if name.startswith("veltair.compiler") and not name.startswith("veltair.compiler.frontend.model")
    ]


def _rank(path: Path) -> tuple[str, int] | None:
    """Return the package of a file's room and the height of the room in it; None where no contract has it."""
    *package, room = path.relative_to(ROOT).parts[:3]
    for each in CONFIGURATION["contracts_options"]:
        if each["type"] == "layers" and each["containers"] == [".".join(package)]:
            for height, layer in enumerate(reversed(each["layers"])):
                if room in layer.split(" | "):
                    return package[-1], height
    return None


def _upward_includes(source: str, path: Path) -> list[str]:
    """Return what a C file includes of a room of its package that lies above its own, or beside it."""
    found = []
    for name in re.findall(r'^#include "([^"]+)"', source, re.MULTILINE):
        own, other = _rank(path), _rank((path.parent / name).resolve())
        same_room = (path.parent / name).resolve().parent == path.parent
        if own and other and own[0] == other[0] and not same_room and other[1] >= own[1]:
            found.append(f"{path.name} includes {name}")
    return found


def _system_includes(source: str) -> set[str]:
    return set(re.findall(r"^#include <([^>]+)>", source, re.MULTILINE))


def _broken(graph: ImportGraph) -> list[str]:
    """Return the names of the contracts that a graph of imports breaks."""
    return [
        each["name"]
        for each in CONFIGURATION["contracts_options"]
        # A check may change the graph that it is given.
        if not KINDS[each["type"]](each["name"], CONFIGURATION["session_options"], each)
        .check(deepcopy(graph), verbose=False)
        .kept
    ]


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    """The imports of this code, as import-linter reads them."""
    return build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


# An import against the arrows, or a module that no contract places: its file, the import, what it breaks.
# The files are such that no other contract sees what they import.
PLANTED = [
    ("veltair/compiler/oracle/onnx_session.py", "veltair.machine.topology.cpulist", "rooms"),
    ("veltair/machine/topology/topology.py", "veltair.serving.loop.query", "rooms"),
    ("veltair/serving/simulator/noise.py", "veltair.evaluation", "rooms"),
    ("veltair/provenance.py", "veltair.config", "rooms"),
    ("veltair/stray.py", "", "rooms"),
    ("veltair/serving/loop/query.py", "baselines", "package"),
    ("baselines/planted.py", "veltair.evaluation", "baselines"),
    ("models/resnet50.py", "veltair", "models"),
    ("veltair/compiler/footprint/nest.py", "veltair.compiler.search.search", "compiler"),
    ("veltair/compiler/search/search.py", "veltair.compiler.select.store", "compiler"),
    ("veltair/compiler/recipes/plan.py", "veltair.compiler.search.search", "compiler"),
    ("veltair/compiler/stray.py", "", "compiler"),
    ("veltair/machine/costs/cost_model_fit.py", "veltair.machine.profile.corunner", "machine"),
    ("veltair/machine/workers/pool.py", "veltair.machine.costs.table", "machine"),
    ("veltair/machine/stray.py", "", "machine"),
    ("veltair/serving/loop/query.py", "veltair.serving.policies.blocks", "serving"),
    ("veltair/serving/engine/engine.py", "veltair.serving.simulator.noise", "serving"),
    ("veltair/serving/stray.py", "", "serving"),
    ("veltair/wire/errors.py", "veltair.wire.infer", "wire"),
    ("veltair/service/engine/link.py", "veltair.service.front.desk", "service"),
    ("veltair/evaluation/metrics/metrics.py", "veltair.evaluation.figures.grid", "evaluation"),
    ("veltair/evaluation/simulation/run.py", "veltair.evaluation.measurement.run", "evaluation"),
    ("veltair/evaluation/stray.py", "", "evaluation"),
]


@pytest.mark.parametrize(("file", "imported", "contract"), PLANTED)
def test_an_import_against_the_arrows_breaks_its_contract_and_no_other(
    graph: ImportGraph, file: str, imported: str, contract: str
) -> None:
    changed, module = deepcopy(graph), file.removesuffix(".py").replace("/", ".")
    changed.add_module(module)
    if imported:
        assert imported in graph.modules
        changed.add_import(importer=module, imported=imported)
    assert _broken(changed) == [NAMES[contract]]


def _lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_arrows_between_the_packages_hold() -> None:
    done = _lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_that_checks_the_arrows_reads_them_from_the_files(tmp_path: Path) -> None:
    for path in _sources():
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, imported, _ in PLANTED:
        with (tmp_path / file).open("a") as stream:
            stream.write(f"\nimport {imported}\n" if imported else "")
    done = _lint_imports(tmp_path)
    assert done.returncode != 0
    assert {name for name in NAMES.values() if f"{name} BROKEN" in done.stdout} == set(NAMES.values())
    assert {contract for _, _, contract in PLANTED} == set(NAMES)


def test_every_folder_of_code_is_a_package() -> None:
    folders = {folder for path in _sources() for folder in path.relative_to(ROOT).parents} - {Path()}
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_every_folder_of_tests_has_a_package_of_its_name() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    homes = (ROOT, ROOT / "veltair")
    assert [folder for folder in folders if not any((home / folder).is_dir() for home in homes)] == []


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_runtimes_and_loadgen_are_imported_in_their_rooms_only(path: Path) -> None:
    assert _misplaced(path.read_text(), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import tvm",
        "from tvm import relax",
        "def f():\n    import tvm.runtime",
        "import mlperf_loadgen as lg",
        "import openvino",
    ],
)
def test_an_import_outside_its_room_is_found(line: str) -> None:
    assert len(_misplaced(line, "veltair/serving/simulator/simulator.py")) == 1


@pytest.mark.parametrize("path", _pure_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_decides_depends_on_its_arguments_only(path: Path) -> None:
    assert _impure(path.read_text(), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "from threading import Lock",
        "import numpy.random",
        "from numpy import random; from random import gauss",
        "import numpy as np\nnp.random.default_rng(1)",
        "from pathlib import Path",
        "def f():\n    print(1)",
    ],
)
def test_a_hidden_input_of_what_decides_is_found(line: str) -> None:
    assert _impure(line, "veltair/serving/policies/blocks.py")


def test_a_generator_that_is_passed_in_is_no_hidden_input() -> None:
    assert _impure("import numpy as np\ndef f(r: np.random.Generator): ...", "x.py") == []


def test_every_room_and_file_that_must_be_pure_is_there() -> None:
    assert [name for name in (*PURE, *NOT_DECIDING) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "baselines").glob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_baselines_know_of_the_compiler_only_what_a_model_is(path: Path) -> None:
    assert _compiler_internals(path.read_text(), path.relative_to(ROOT).as_posix()) == []


def test_a_baseline_that_reaches_into_the_compiler_is_found() -> None:
    assert len(_compiler_internals("from veltair.compiler import search", "baselines/x.py")) == 1


C_FILES = sorted((ROOT / "veltair").rglob("*.[ch]"))


@pytest.mark.parametrize("path", C_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_c_files_include_keeps_to_the_arrows(path: Path) -> None:
    assert _upward_includes(path.read_text(), path) == []


@pytest.mark.parametrize("name", ["../simulator/simulator_core.h", "../policies/native/decisions.h"])
def test_a_c_file_that_includes_upwards_is_found(name: str) -> None:
    path = ROOT / "veltair/serving/loop/serving_loop.c"
    assert _upward_includes(f'#include "{name}"\n', path) == [f"serving_loop.c includes {name}"]


@pytest.mark.parametrize(
    "path",
    [path for path in C_FILES if path.parent.name in ("loop", "native")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_decides_in_c_knows_no_clock_and_no_thread(path: Path) -> None:
    assert _system_includes(path.read_text()) <= PURE_HEADERS


def test_a_clock_in_what_decides_in_c_is_found() -> None:
    assert not _system_includes("#include <math.h>\n#include <time.h>\n") <= PURE_HEADERS
