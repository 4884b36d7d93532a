"""Whatever is left of a benchmark's results: it is compared, or it is refused by its name."""

from pathlib import Path

from hypothesis import strategies as st

from tests.support.fuzz import INPUTS, as_json, changed, cut_or_spoilt, fuzz
from tests.support.regression_builders import origin, read, write_benchmark_run
from veltair.evaluation.regression.read import Comparison, ComparisonError, compare
from veltair.provenance import ProvenanceError, provenance_path

FIGURES = {"x": (1.0, "s"), "kernel_ratio_net": (0.9, "times")}


@INPUTS
def test_a_benchmark_that_was_changed_is_compared_or_refused(inputs: int, tmp_path: Path) -> None:
    good = write_benchmark_run(tmp_path / "good.json", FIGURES, origin(0))
    provenance_path(write_benchmark_run(tmp_path / "any.json", FIGURES, origin(1))).unlink()
    whole = (tmp_path / "any.json").read_bytes()

    def take(content: bytes) -> None:
        (tmp_path / "any.json").write_bytes(content)
        for sides in ((good, tmp_path / "any.json"), (tmp_path / "any.json", good)):
            try:
                found = compare(*sides)
            except (ComparisonError, ProvenanceError) as error:
                assert "any.json" in str(error) or "in common" in str(error)
            else:
                assert isinstance(found, Comparison)

    values = changed(read(tmp_path / "any.json")).map(as_json)
    fuzz(inputs, st.one_of(values, cut_or_spoilt(whole)), take)
