"""What it costs that more threads are at work than there are cores, measured by a probe in C.

Teams of threads, one on each core, do what the layers of a network do on the threads of ONNX Runtime as it
comes: all work for a while, spin until the others are there, and work again. Of several teams at once each
should get on at its part of the speed of one. How much slower they are is the cost: of switching threads, of
the caches that they take from each other, and above all of spinning for a thread whose turn has not come.
"""

import subprocess
from pathlib import Path

import pandas as pd

from veltair.machine.c_build import FLAGS, compile_c
from veltair.machine.topology.cpulist import format_cpu_list
from veltair.machine.topology.topology import Machine

SOURCE = Path(__file__).with_name("oversubscription.c")
TEAMS = (1, 2, 4, 8, 16)
REPEATS = 7
SECONDS = 0.3  # of each: a hundred time slices of Linux
ROUND_S = 200e-6  # alone: about what a layer takes
COLUMNS = ("teams", "repeat", "rounds_per_s")


def measure_oversubscription(machine: Machine, build_dir: Path) -> pd.DataFrame:
    """Return the rounds/s of all teams together, a row for each number of teams and repeat: `COLUMNS`.

    A thread reads half of its core's L2 over and over. Takes 11 s and all cores. Raises NativeBuildError
    without gcc, RuntimeError if the probe fails.
    """
    program = compile_c(SOURCE, build_dir, FLAGS)
    # One pass more a round takes so much longer; what teams pay to meet does not count.
    few, more = (1 / _rate(program, machine, 1, passes) for passes in (1, 11))
    passes = max(1, round(ROUND_S * 10 / max(more - few, 1e-9)))
    # One of each after the other, so that what disturbs a while disturbs all alike.
    rows = [
        (teams, repeat, _rate(program, machine, teams, passes))
        for repeat in range(REPEATS)
        for teams in TEAMS
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rate(program: Path, machine: Machine, teams: int, passes: int) -> float:
    numbers = (teams, passes, SECONDS, 1, machine.l2_bytes // 2, *machine.core_ids)
    done = subprocess.run([str(program), *map(str, numbers)], capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise RuntimeError(
            f"the probe of oversubscription failed with {teams} threads on each of cores "
            f"{format_cpu_list(machine.core_ids)} (exit status {done.returncode}): {done.stderr.strip()}; it "
            "needs these cores, and so many threads"
        )
    return float(done.stdout)
