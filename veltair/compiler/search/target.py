"""The CPU that kernels are built for, as a TVM target."""

import os
from typing import Any

from tvm.target import Target
from tvm.target.codegen import llvm_get_system_cpu, llvm_is_valid_cpu

SPINS = 300_000  # TVM's own default
GENERIC_X86 = "x86-64-v3"  # AVX2 and FMA: what any x86 server since 2015 runs


def host_cpu() -> str:
    """Return LLVM's name of this CPU; a generic one where LLVM does not know it."""
    name = str(llvm_get_system_cpu())
    return name if llvm_is_valid_cpu(name, "x86_64") and name not in ("", "generic") else GENERIC_X86


def cpu_target(search_cores: int, cpu: str = "auto", *, fma: bool = True) -> Any:
    """Return the TVM target of a CPU name ("auto": this machine's).

    `search_cores` bounds how far loops are split for parallel execution; it is the core count of the largest
    machine that the versions are for, not of this one. `fma`: whether products and sums may be fused.
    """
    name = host_cpu() if cpu == "auto" else cpu
    if not llvm_is_valid_cpu(name, "x86_64"):
        raise ValueError(f"{name!r} is not a CPU that LLVM knows; write auto or, say, {GENERIC_X86}")
    without = {} if fma else {"mattr": ["-fma"]}
    return Target({"kind": "llvm", "mcpu": name, "num-cores": search_cores, **without})


def spin_when_idle() -> None:
    """Let idle threads of TVM's pools wait for their next kernel awake, as for a network that runs alone.

    Waking a thread that sleeps takes as long as a short layer. TVM reads this once, see `sleep_when_idle`.
    """
    os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = str(SPINS)


def sleep_when_idle() -> None:
    """Let idle threads of TVM's pools sleep at once; it reads this once, when a process's first kernel runs.

    Else they spin on cores that were given to another block.
    """
    os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = "0"


def use_all_cores() -> None:
    """Let TVM's thread pool have every core that this process may use; it reads this once, at first use."""
    os.environ["TVM_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
