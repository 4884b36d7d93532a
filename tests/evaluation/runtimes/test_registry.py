import os
import threading

import pytest

from veltair.evaluation.runtimes import registry as rivals_module
from veltair.evaluation.runtimes.registry import BACKENDS, Rival, at_idle_priority, open_backend, rivals


def test_each_ratio_of_the_comparison_has_a_rival() -> None:
    figures = {rival.figure for rival in rivals(2)}
    assert figures == {"served_vs_ort_default", "served_vs_ort_pinned", "served_vs_openvino"}


@pytest.mark.parametrize("cores", [1, 2, 12, 64])
def test_every_divisor_of_the_cores_is_a_rival_of_pinned_sessions(cores: int) -> None:
    counts = [rival.options["sessions"] for rival in rivals(cores) if rival.options.get("pinned")]
    assert counts == [count for count in range(1, cores + 1) if cores % count == 0]


def test_names_of_rivals_are_unique() -> None:
    names = [rival.name for rival in rivals(12)]
    assert len(set(names)) == len(names)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rival x: backend torch; give one of onnxruntime, openvino"):
        Rival("x", "served_vs_x", "torch")


def test_a_rival_whose_package_is_missing_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "no_such_package", "nowhere:Nothing")
    assert not Rival("x", "served_vs_x", "no_such_package").installed
    assert Rival("y", "served_vs_y", "onnxruntime").installed


def test_a_backend_added_to_the_registry_is_opened_with_the_rivals_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rivals_module, "Recorder", lambda *given, **options: (given, options), raising=False)
    monkeypatch.setitem(BACKENDS, "mine", "veltair.evaluation.runtimes.registry:Recorder")
    opened = open_backend("mine", {"streams": 3}, {}, [], (0, 1), print)
    assert opened == (({}, [], (0, 1), print), {"streams": 3})


def test_threads_started_by_one_that_stepped_back_yield_to_all_others() -> None:
    def start() -> int:
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
        thread.start()
        thread.join()
        return seen[0]

    assert at_idle_priority(start) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) != os.SCHED_IDLE
