"""pool.c alone, in a program of C, under the sanitizers."""

import subprocess
from pathlib import Path

import pytest

from veltair.machine.c_build import COMPILER

SOURCE = Path(__file__).parent / "pool_stress.c"
SANITIZERS = ("thread", "address,undefined")


def build(sanitizer: str, folder: Path) -> Path:
    program = folder / f"stress-{sanitizer[:6]}"
    flags = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-pthread", f"-fsanitize={sanitizer}")
    done = subprocess.run(
        [COMPILER, *flags, str(SOURCE), "-o", str(program), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip(f"gcc has no library for -fsanitize={sanitizer} here")
    assert (done.returncode, done.stderr) == (0, "")
    return program


def stress(program: Path, blocks: int, workers: int, seed: int) -> None:
    words = [str(program), str(blocks), str(workers), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith(f"{blocks} blocks")


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_random_grants_and_loops_keep_to_their_cores_without_races_or_leaks(
    sanitizer: str, tmp_path: Path
) -> None:
    program = build(sanitizer, tmp_path)
    stress(program, 300, 5, seed=3)


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("workers", [1, 2, 7, 32])
def test_long_runs_of_random_grants_have_no_races_or_leaks(
    sanitizer: str, workers: int, tmp_path: Path
) -> None:
    program = build(sanitizer, tmp_path)
    stress(program, 10_000, workers, seed=workers)
