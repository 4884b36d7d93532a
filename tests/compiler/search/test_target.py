import os

import pytest

from veltair.compiler.search import target
from veltair.compiler.search.target import (
    GENERIC_X86,
    cpu_target,
    host_cpu,
    sleep_when_idle,
    spin_when_idle,
    use_all_cores,
)


def test_the_host_has_a_name_that_a_target_can_be_made_of() -> None:
    assert cpu_target(4).attrs["mcpu"] == host_cpu() == cpu_target(4, "auto").attrs["mcpu"]


def test_a_target_bounds_parallelism_by_the_cores_it_is_given_not_by_those_here() -> None:
    assert cpu_target(64, GENERIC_X86).attrs["num-cores"] == 64


def test_a_cpu_can_be_named() -> None:
    assert cpu_target(4, GENERIC_X86).attrs["mcpu"] == GENERIC_X86


def test_a_cpu_that_llvm_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'pentium-9' is not a CPU.*write auto or"):
        cpu_target(4, "pentium-9")


@pytest.mark.parametrize("name", ["generic", "", "zen-of-tomorrow"])
def test_a_host_that_llvm_does_not_know_is_taken_as_generic(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "llvm_get_system_cpu", lambda: name)
    assert host_cpu() == GENERIC_X86


def test_all_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "77")
    use_all_cores()
    assert os.environ["TVM_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))


def test_idle_threads_sleep_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_THREAD_POOL_SPIN_COUNT", "77")
    sleep_when_idle()
    assert os.environ["TVM_THREAD_POOL_SPIN_COUNT"] == "0"
    spin_when_idle()
    assert int(os.environ["TVM_THREAD_POOL_SPIN_COUNT"]) > 0
