from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.support.tiny import tiny
from veltair.evaluation.benchmarks.models import FileResult, file_table, model_figures
from veltair.evaluation.benchmarks.served_file import CHECK, Checked, Order, in_fresh_process

GOOD = Checked("", 9, 8, 7, 2_000_000_000, 1e-6, 1e-4, (), 100.0, 10.0)
RESULTS = [
    FileResult("one", "", "", 4.0, GOOD, 50.0, 8.0, 125.0, (2.0, 2.0)),
    FileResult("two", "", "", 6.0, Checked("", error=3e-5), 30.0, 20.0),
    FileResult("three", "", "", 1.0, Checked("node n is odd")),
    FileResult("four", "", "GRU", 1.0, Checked("node g (GRU) is not supported")),
    FileResult("five", "no route", ""),
]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return model_figures(RESULTS)


def test_files_that_are_right_count_beside_those_that_were_there_and_are_to_be_served(
    figures: dict[str, Any],
) -> None:
    assert figures["real_files_served"].value == 2
    assert figures["real_files_served"].unit == (
        "files of 3 to be served; 1 hold what is not, 1 were not there"
    )


def test_the_longest_check_counts_refusals_too_and_the_worst_error_only_what_is_served(
    figures: dict[str, Any],
) -> None:
    assert figures["check_seconds_max"].value == 6.0
    assert len(figures["check_seconds_max"].samples) == 4
    assert figures["relative_error_max"].value == 3e-5
    assert figures["upload_to_ready_s"].samples == (50.0, 30.0)


def test_estimates_are_judged_by_the_one_furthest_from_what_happened_on_either_side(
    figures: dict[str, Any],
) -> None:
    assert figures["search_estimate_ratio"].value == pytest.approx(0.8)
    assert figures["own_estimate_ratio"].value == pytest.approx(1.25)
    assert figures["own_latency_ratio"].value == pytest.approx(2.0)


def test_figures_of_which_no_file_is_there_are_left_out() -> None:
    assert set(model_figures([RESULTS[4]])) == {"real_files_served", "real_files_served_beyond"}


def test_the_table_says_of_each_file_why_it_is_not_served() -> None:
    table = file_table(RESULTS)
    assert "node n is odd" in table
    assert "no route" in table
    assert "| one" in table


def test_results_are_read_as_they_were_written() -> None:
    kind = TypeAdapter(FileResult)
    assert [kind.validate_json(kind.dump_json(one)) for one in RESULTS] == RESULTS


def order(path: Path, folder: Path) -> Order:
    return Order(CHECK, path, {}, {}, folder, folder / "machine.yaml", {"trials": 1})


def test_a_file_is_checked_in_a_process_of_its_own_and_a_refusal_is_a_result(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    checked, took_s = in_fresh_process(order(tmp_path / "net.onnx", tmp_path), Checked)
    assert "Git LFS pointer" in checked.refused
    assert took_s > 0


@pytest.mark.long
def test_a_tiny_network_is_checked_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(tiny().SerializeToString())
    checked, _ = in_fresh_process(order(tmp_path / "net.onnx", tmp_path), Checked)
    assert checked.layers
    assert checked.error <= checked.allowed
    assert checked.estimated_s > 0


def test_what_fails_in_the_process_is_told_by_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(tiny().SerializeToString())
    wrong = Order("serve", tmp_path / "net.onnx", {}, {}, tmp_path, tmp_path / "none.yaml", {})
    with pytest.raises(RuntimeError, match="serve failed: "):
        in_fresh_process(wrong, Checked)
