"""The live loop alone, in a program of C, under the sanitizers."""

import subprocess
from pathlib import Path

import pytest

from veltair.machine.c_build import COMPILER
from veltair.machine.workers import native_pool
from veltair.serving.engine.live_tables import BESIDE, SOURCE

FOLDER = Path(__file__).parent
SANITIZERS = ("thread", "address,undefined")
# More workers than the machine has cores.
DEFINES = ("-DPOOL_CHECK", "-DPOOL_UNPINNED", "-include", str(FOLDER / "live_stress.h"))


def build(sanitizer: str, folder: Path) -> Path:
    program = folder / f"stress-{sanitizer[:6]}"
    flags = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-pthread", f"-fsanitize={sanitizer}")
    sources = map(str, (FOLDER / "live_stress.c", SOURCE, *BESIDE, native_pool.SOURCE))
    done = subprocess.run(
        [COMPILER, *flags, *DEFINES, *sources, "-o", str(program), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip(f"gcc has no library for -fsanitize={sanitizer} here")
    assert (done.returncode, done.stderr) == (0, "")
    return program


def stress(program: Path, queries: int, workers: int, seed: int) -> None:
    words = [str(program), str(queries), str(workers), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith(f"{queries} queries")


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_random_decisions_run_each_layer_once_without_races_or_leaks(sanitizer: str, tmp_path: Path) -> None:
    stress(build(sanitizer, tmp_path), 150, 5, seed=3)


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("workers", [1, 2, 7, 16])
def test_long_runs_of_random_decisions_have_no_races_or_leaks(
    sanitizer: str, workers: int, tmp_path: Path
) -> None:
    stress(build(sanitizer, tmp_path), 10_000, workers, seed=workers)
