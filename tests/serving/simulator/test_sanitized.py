"""The simulator and the decisions in C under the sanitizers, driven by their tests against Python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from veltair.machine.c_build import COMPILER

ROOT = Path(__file__).parents[3]
SANITIZERS = ("address", "undefined")
TESTS = (
    "tests/serving/simulator/test_native_core.py",
    "tests/serving/simulator/test_native_loop.py",
    "tests/serving/policies/test_native_shares.py",
    "tests/serving/policies/test_native_policy.py",
    "tests/serving/loop/test_python_decider.py",
)
# Compiles with the sanitizers what the tests load. The exact arithmetic stays, so results are still compared.
DRIVER = """
import sys

import pytest

from veltair.serving.policies import native_shares
from veltair.serving.simulator import native_core

for module in (native_core, native_shares):
    module.EXACT_LIBRARY = (
        *module.EXACT_LIBRARY, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    )
sys.exit(pytest.main(["-q", "-x", "--capture=no", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def runtime(sanitizer: str) -> str:
    """Return the path of a sanitizer's library, which a process has to load before all others."""
    name = {"address": "libasan.so", "undefined": "libubsan.so"}[sanitizer]
    found = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"gcc has no library for -fsanitize={sanitizer} here")
    return path


@pytest.mark.long
@pytest.mark.parametrize("tests", TESTS)
def test_no_access_out_of_bounds_and_no_undefined_behaviour(tests: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(map(runtime, SANITIZERS)),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter frees nothing at its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # else memory that Python gives to C lies within larger pieces
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    words = [sys.executable, "-c", DRIVER, tests]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    report = done.stdout + done.stderr
    found = re.search("runtime error|ERROR: AddressSanitizer", report)
    assert done.returncode == 0, report[max(0, found.start() - 200) :][:4000] if found else report[-4000:]
