"""pool.c alone, in a program of C, under the sanitizers."""

from pathlib import Path

import pytest

from tests.support.sanitized_programs import SANITIZERS, build, stress

SOURCE = Path(__file__).parent / "pool_stress.c"


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_random_grants_and_loops_keep_to_their_cores_without_races_or_leaks(
    sanitizer: str, tmp_path: Path
) -> None:
    stress(build(sanitizer, tmp_path, [str(SOURCE)]), 300, 5, seed=3, noun="blocks")


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("workers", [1, 2, 7, 32])
def test_long_runs_of_random_grants_have_no_races_or_leaks(
    sanitizer: str, workers: int, tmp_path: Path
) -> None:
    stress(build(sanitizer, tmp_path, [str(SOURCE)]), 10_000, workers, seed=workers, noun="blocks")
