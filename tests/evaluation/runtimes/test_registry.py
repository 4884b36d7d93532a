import pytest

from veltair.evaluation.runtimes import registry
from veltair.evaluation.runtimes.registry import BACKENDS, Runtime, open_backend, runtimes


def test_each_ratio_of_the_comparison_has_a_runtime() -> None:
    figures = {figure for runtime in runtimes(2) for figure in runtime.figures}
    assert figures == {"served_vs_ort_default", "served_vs_ort_best", "served_vs_openvino"}


@pytest.mark.parametrize("cores", [1, 2, 12, 64])
def test_every_divisor_of_the_cores_is_a_runtime_of_pinned_sessions(cores: int) -> None:
    counts = [runtime.options["sessions"] for runtime in runtimes(cores) if runtime.options.get("pinned")]
    assert counts == [count for count in range(1, cores + 1) if cores % count == 0]


def test_names_of_runtimes_are_unique() -> None:
    names = [runtime.name for runtime in runtimes(12)]
    assert len(set(names)) == len(names)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runtime x: backend torch; give one of onnxruntime, openvino"):
        Runtime("x", ("served_vs_x",), "torch")


def test_a_runtime_whose_package_is_missing_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "no_such_package", "nowhere:Nothing")
    assert not Runtime("x", ("served_vs_x",), "no_such_package").installed
    assert Runtime("y", ("served_vs_y",), "onnxruntime").installed


def test_a_backend_added_to_the_registry_is_opened_with_its_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "Recorder", lambda *given, **options: (given, options), raising=False)
    monkeypatch.setitem(BACKENDS, "mine", "veltair.evaluation.runtimes.registry:Recorder")
    opened = open_backend("mine", {"streams": 3}, {}, [], (0, 1), print)
    assert opened == (({}, [], (0, 1), print), {"streams": 3})
