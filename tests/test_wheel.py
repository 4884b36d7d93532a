"""The package as it is installed: a wheel, in a folder that holds nothing else of the project."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "smoke_summary.csv"
POLICY = "Planaria"

SIMULATES = f"""
from pathlib import Path
from veltair.config import load
from veltair.data import shipped
from veltair.evaluation.simulation.steps import simulate_capacity
simulate_capacity(load([Path("smoke.yaml")]), shipped("costs"), "mix", "{POLICY}", Path("capacity.csv"))
"""

SERVES = """
import os, sys, time
from pathlib import Path
import pandas as pd
from veltair.compiler.frontend.model import Layer, Model
from veltair.compiler.frontend.samples import random_samples
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.placement import spread
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Sample, on_cores
from veltair.serving.engine.engine import Engine
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Context
from veltair.serving.policies.presets import make_policy

cores = tuple(sorted(os.sched_getaffinity(0)))
machine = Machine("here", 1, (cores,), 2**19, 2**24, 1e11, 1e11, validated=False)
model = LoadedModel(Path(sys.argv[1]))
layers = tuple(Layer(layer.name, layer.structure, layer.macs) for layer in model.plan.layers)
rows = [
    ("tiny", layer, version, count, 0.0, 0, 1e-4 / count, 0.0, 0.0)
    for layer in range(len(layers))
    for version in range(len(model.plan.of(layer)))
    for count in range(1, len(cores) + 1)
]
costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "here")
context = Context({"tiny": Model("tiny", layers, 10.0)}, costs, machine)
values, alone = random_samples(model.plan.inputs, seed=1), model.instance()
alone.set_inputs(values)
with on_cores(cores):
    sample = Sample(values, tuple(alone.run((0,) * len(layers))))
engine = Engine(
    {"tiny": model}, [("tiny", sample)], {"tiny": 10.0}, costs, machine, spread, ObservedSlowdown(), 60.0,
    lambda ids: NativePool(ids, Path("native")),
)
for number in range(20):
    engine.arrive(number, 0, time.monotonic())
engine.flush()
policy = make_policy("baselines.fcfs_min:FcfsMin", context, "paper", {})
served = [record.ending for record in serve(Dispatcher(policy, context), engine)]
engine.stop()
assert (len(served), set(served), engine.wrong_answers) == (20, {"served"}, 0), served
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what git knows of."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "-w", str(folder), str(folder / "source")], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that it is installed into; what it depends on is that of this Python."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target"]
    subprocess.run([*install, str(folder), str(wheel)], check=True)
    return folder


def run(installed: Path, folder: Path, script: str, *arguments: str) -> None:
    """Run a script with the installed package, in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(folder / "cache")}
    where = f"import veltair; assert veltair.__file__.startswith({str(installed)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", where + script, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_sources_in_c_the_data_and_the_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "veltair", "baselines", "models"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    meant = {
        name for name in listed.stdout.splitlines() if (ROOT / name).exists() and not name.endswith(".md")
    }
    assert meant - names == set()
    assert "veltair/py.typed" in names


def test_what_is_installed_simulates_as_the_golden_summary_says(installed: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "workflow" / "config" / "smoke.yaml", tmp_path)
    run(installed, tmp_path, SIMULATES)
    found = pd.read_csv(tmp_path / "capacity.csv").iloc[0]
    lines = [line for line in GOLDEN.read_text().splitlines() if f",mix,{POLICY}," in line]
    assert f",{float(found['qps_at_95'])!r}," in lines[0]


def test_what_is_installed_serves(installed: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, SERVES, str(tiny_folder))
