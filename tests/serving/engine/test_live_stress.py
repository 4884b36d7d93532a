"""The live loop alone, in a program of C, under the sanitizers."""

from pathlib import Path

import pytest

from tests.support.sanitized_programs import SANITIZERS, build, stress
from veltair.machine.workers import native_pool
from veltair.serving.engine.live_tables import BESIDE, SOURCE

FOLDER = Path(__file__).parent
# More workers than the machine has cores.
DEFINES = ("-DPOOL_CHECK", "-DPOOL_UNPINNED", "-include", str(FOLDER / "live_stress.h"))
ARGUMENTS = [*DEFINES, *map(str, (FOLDER / "live_stress.c", SOURCE, *BESIDE, native_pool.SOURCE))]


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_random_decisions_run_each_layer_once_without_races_or_leaks(sanitizer: str, tmp_path: Path) -> None:
    stress(build(sanitizer, tmp_path, ARGUMENTS), 150, 5, seed=3, noun="queries")


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("workers", [1, 2, 7, 16])
def test_long_runs_of_random_decisions_have_no_races_or_leaks(
    sanitizer: str, workers: int, tmp_path: Path
) -> None:
    stress(build(sanitizer, tmp_path, ARGUMENTS), 10_000, workers, seed=workers, noun="queries")
