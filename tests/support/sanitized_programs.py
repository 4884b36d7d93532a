"""Programs of C under the sanitizers, which count what they did."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from veltair.machine.c_build import COMPILER

SANITIZERS = ("thread", "address,undefined")


def build(sanitizer: str, folder: Path, arguments: Sequence[str]) -> Path:
    """Return a program of gcc's `arguments`; skips the test where gcc lacks the sanitizer."""
    program = folder / f"stress-{sanitizer[:6]}"
    flags = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-pthread", f"-fsanitize={sanitizer}")
    done = subprocess.run(
        [COMPILER, *flags, *arguments, "-o", str(program), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip(f"gcc has no library for -fsanitize={sanitizer} here")
    assert (done.returncode, done.stderr) == (0, "")
    return program


def stress(program: Path, count: int, workers: int, seed: int, noun: str) -> None:
    """Let a program do so many of what `noun` names; fails unless it says so and no sanitizer says a word."""
    words = [str(program), str(count), str(workers), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith(f"{count} {noun}")
