import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tests.support.regression_builders import (
    capacity_rows,
    origin,
    read,
    write_benchmark_pairs,
    write_benchmark_run,
    write_metrics,
)
from veltair.evaluation.__main__ import main
from veltair.evaluation.regression.judge import Change, ChangeKind
from veltair.evaluation.regression.read import Comparison, ComparisonError, compare, made_in_turns, read_runs
from veltair.evaluation.regression.report import exit_code, print_comparison, write_comparison
from veltair.provenance import ProvenanceError, provenance_path, write_result

PAIRS = 6


def noisy(seed: int, slower: float = 1.0) -> list[float]:
    return (slower * np.exp(0.01 * np.random.default_rng(seed).standard_normal(PAIRS))).tolist()


def outcomes(comparison: Comparison) -> dict[tuple[str, str], ChangeKind]:
    return {
        (change.quantity.subject, change.quantity.metric): change.outcome for change in comparison.changes
    }


def only(comparison: Comparison) -> Change:
    (change,) = comparison.changes
    return change


def served_pairs(folder: Path, slower: float = 1.0) -> tuple[Path, Path]:
    """Write pairs of measured runs, made in turns, the second of each serving less."""
    for pair, qps in enumerate(noisy(1)):
        write_metrics(folder / "A" / str(pair), capacity_rows("engine", [qps]), origin(2 * pair))
        served = capacity_rows("engine", [qps / slower])
        write_metrics(folder / "B" / str(pair), served, origin(2 * pair + 1))
    return folder / "A", folder / "B"


def test_a_benchmark_that_got_5_percent_slower_is_found(tmp_path: Path) -> None:
    sides = write_benchmark_pairs(tmp_path, noisy(1), noisy(2, slower=1.05))
    assert only(compare(*sides)).outcome is ChangeKind.REGRESSION


def test_a_benchmark_with_noise_alone_is_not(tmp_path: Path) -> None:
    sides = write_benchmark_pairs(tmp_path, noisy(1), noisy(2))
    assert only(compare(*sides)).outcome is ChangeKind.NO_CHANGE


def test_measured_capacities_that_fell_are_found_pair_by_pair(tmp_path: Path) -> None:
    found = outcomes(compare(*served_pairs(tmp_path, slower=1.05)))
    assert found == {
        ("box, mix, Planaria", "at_least_qps"): ChangeKind.REGRESSION,
        ("box, mix, Planaria", "minimum_at_least_qps"): ChangeKind.REGRESSION,
    }


def test_a_run_of_several_seeds_is_a_pair_for_each(tmp_path: Path) -> None:
    rows = capacity_rows("engine", [1.0, 2.0, 3.0])
    for pair in range(2):
        for index, side in enumerate("AB"):
            write_metrics(tmp_path / side / str(pair), rows, origin(2 * pair + index))
    assert {change.pairs for change in compare(tmp_path / "A", tmp_path / "B").changes} == {6}


def test_two_single_runs_are_shown_and_not_judged(tmp_path: Path) -> None:
    a = write_benchmark_run(tmp_path / "a.json", {"x": (1.0, "s")}, origin(0))
    b = write_benchmark_run(tmp_path / "b.json", {"x": (2.0, "s")}, origin(1))
    found = compare(a, b)
    assert found.changes[0].ratio == 2.0
    assert found.changes[0].outcome is ChangeKind.NOT_JUDGED


def test_runs_one_side_after_the_other_are_not_judged(tmp_path: Path) -> None:
    for pair in range(PAIRS):
        write_benchmark_run(tmp_path / "A" / f"{pair}.json", {"x": (1.0, "s")}, origin(pair))
        write_benchmark_run(tmp_path / "B" / f"{pair}.json", {"x": (2.0, "s")}, origin(30 + pair))
    assert "in turns" in only(compare(tmp_path / "A", tmp_path / "B")).reason


def test_it_does_not_matter_which_of_a_pair_came_first(tmp_path: Path) -> None:
    for pair in range(PAIRS):
        first = pair % 2
        write_benchmark_run(tmp_path / "A" / f"{pair}.json", {"x": (1.0, "s")}, origin(2 * pair + first))
        write_benchmark_run(tmp_path / "B" / f"{pair}.json", {"x": (2.0, "s")}, origin(2 * pair + 1 - first))
    assert made_in_turns(read_runs(tmp_path / "A"), read_runs(tmp_path / "B"))


def test_runs_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        write_benchmark_run(tmp_path / f"{number}.json", {"x": (float(number), "s")}, origin())
    assert [run.path.stem for run in read_runs(tmp_path)] == ["2", "9", "10"]


@pytest.mark.parametrize(
    ("name", "value"), [("cpu", "another CPU"), ("cores", (0, 1, 2)), ("caches", {"L3 Unified": "8192K"})]
)
def test_measured_results_of_unlike_machines_are_refused_with_what_differs(
    tmp_path: Path, name: str, value: object
) -> None:
    a = write_benchmark_run(tmp_path / "a.json", {"x": (1.0, "s")}, origin())
    b = write_benchmark_run(tmp_path / "b.json", {"x": (1.0, "s")}, origin(**{name: value}))
    found = compare(a, b)
    assert found.changes == ()
    (line,) = found.refused
    assert f"{name} is " in line
    assert str(value) in line


def test_commits_may_differ_and_are_told(tmp_path: Path) -> None:
    a = write_benchmark_run(tmp_path / "a.json", {"x": (1.0, "s")}, origin())
    b = write_benchmark_run(tmp_path / "b.json", {"x": (1.0, "s")}, origin(commit="decade"))
    found = compare(a, b)
    assert found.refused == ()
    assert "commit: c0ffee before, decade after" in found.notes


def test_unlike_seeds_are_refused(tmp_path: Path) -> None:
    for seed, side in enumerate("AB"):
        rows = [{**row, "seed": seed} for row in capacity_rows("engine", [1.0])]
        write_metrics(tmp_path / side, rows, origin())
    with pytest.raises(ComparisonError, match=r"seeds \[0\].*\[1\]"):
        compare(tmp_path / "A", tmp_path / "B")


def test_curves_are_compared_share_by_share_although_the_rates_differ(tmp_path: Path) -> None:
    for pair in range(PAIRS):
        for index, side in enumerate("AB"):
            folder = tmp_path / side / str(pair)
            write_metrics(folder, capacity_rows("engine", [1.0]), origin(2 * pair + index))
            # Another profile gives other rates for the same shares.
            write_curves(folder, qps=5.0 + pair + 0.1 * index, satisfaction=0.9 - 0.2 * index)
    found = outcomes(compare(tmp_path / "A", tmp_path / "B"))
    at = "box, mix, Planaria at 0.3 of the sequential rate"
    assert found[at, "satisfaction"] is ChangeKind.REGRESSION
    assert found[at, "latency_mean_s"] is ChangeKind.NO_CHANGE


def write_curves(folder: Path, qps: float, satisfaction: float) -> None:
    row = {"backend": "engine", "machine": "box", "workload": "mix", "policy": "Planaria", "seed": 1}
    numbers = dict.fromkeys(("latency_mean_s", "latency_p95_s", "cpu_efficiency"), 0.5)
    table = pd.DataFrame([{**row, **numbers, "qps": qps, "share": 0.3, "satisfaction": satisfaction}])
    write_result(folder / "curves.csv", table.to_csv(index=False).encode(), origin())


def test_unlike_numbers_of_runs_are_refused(tmp_path: Path) -> None:
    write_benchmark_pairs(tmp_path, [1.0, 1.0], [1.0, 1.0])
    (tmp_path / "B" / "1.json").unlink()
    with pytest.raises(ComparisonError, match=r"holds 2 runs and .* 1;"):
        compare(tmp_path / "A", tmp_path / "B")


def test_simulated_results_are_compared_for_equality_on_any_machine(tmp_path: Path) -> None:
    a = write_metrics(tmp_path / "a", capacity_rows("simulator", [417.2]), origin())
    b = write_metrics(tmp_path / "b", capacity_rows("simulator", [417.3]), origin(cpu="another CPU"))
    assert {*outcomes(compare(a, a)).values()} == {ChangeKind.EQUAL}
    assert {*outcomes(compare(a, b)).values()} == {ChangeKind.DIFFERS}


def test_results_hold_their_metrics_in_a_folder(tmp_path: Path) -> None:
    write_metrics(tmp_path / "run" / "metrics", capacity_rows("simulator", [417.2]), origin())
    assert compare(tmp_path / "run", tmp_path / "run" / "metrics").changes


def test_results_simulated_from_unlike_cost_tables_are_refused(tmp_path: Path) -> None:
    for side in "AB":
        write_metrics(tmp_path / side / "metrics", capacity_rows("simulator", [417.2]), origin())
        cell = tmp_path / side / "simulated" / "box" / "mix" / "Planaria" / "capacity.csv"
        cell.parent.mkdir(parents=True)
        provenance_path(cell).write_text(json.dumps({"inputs": {"costs/box/costs.parquet": side}}))
    (line,) = compare(tmp_path / "A", tmp_path / "B").refused
    assert "unlike cost tables (box)" in line


def test_a_table_that_was_changed_after_it_was_written_is_refused(tmp_path: Path) -> None:
    folder = write_metrics(tmp_path / "a", capacity_rows("simulator", [417.2]), origin())
    (folder / "capacity.csv").write_text("other")
    with pytest.raises(ProvenanceError, match="is not the file"):
        compare(folder, folder)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_path_without_results_is_refused_with_what_to_give(tmp_path: Path, name: str) -> None:
    with pytest.raises(ComparisonError, match="give a folder of results or metrics, or a benchmark's JSON"):
        read_runs(tmp_path / name)


def test_a_part_can_be_left_out(tmp_path: Path) -> None:
    rows = [*capacity_rows("simulator", [417.2]), *capacity_rows("engine", [7.0])]
    folder = write_metrics(tmp_path, rows, origin())
    assert {change.outcome for change in compare(folder, folder, ["simulated"]).changes} == {ChangeKind.EQUAL}
    assert {change.outcome for change in compare(folder, folder, ["measured"]).changes} == {
        ChangeKind.NOT_JUDGED
    }


@pytest.mark.parametrize(
    ("slower", "flags", "code"),
    [(1.05, ["--fail-on-regression"], 1), (1.05, [], 0), (1.0, ["--fail-on-regression"], 0)],
)
def test_the_exit_code_tells_of_a_regression_if_asked_to(
    tmp_path: Path, slower: float, flags: list[str], code: int
) -> None:
    a, b = write_benchmark_pairs(tmp_path, noisy(1), noisy(2, slower))
    assert main(["compare", str(a), str(b), "--output", str(tmp_path / "out"), *flags]) == code


def test_to_have_judged_nothing_is_no_pass(tmp_path: Path) -> None:
    a, b = write_benchmark_pairs(tmp_path, [1.0], [2.0])
    found = compare(a, b)
    assert (exit_code(found, fail_on_regression=True), exit_code(found, fail_on_regression=False)) == (2, 0)


def test_a_wrong_path_ends_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "no"), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_refused_results_end_with_2(tmp_path: Path) -> None:
    assert exit_code(Comparison((), ("measured results: …",), ()), fail_on_regression=False) == 2


def test_the_table_has_the_regression_first_and_tells_the_rule(tmp_path: Path) -> None:
    a, b = served_pairs(tmp_path, slower=1.05)
    console = Console(record=True, width=200)
    print_comparison(compare(a, b), console)
    text = console.export_text()
    assert "regression" in text
    assert "leaves 1 out" in text
    assert "2 quantities: 2 regression" in text


def test_csv_and_json_say_the_same_with_no_number_as_none(tmp_path: Path) -> None:
    a, b = write_benchmark_pairs(tmp_path, [1.0], [2.0])
    csv, document = write_comparison(compare(a, b), tmp_path, origin())
    (row,) = pd.read_csv(csv).to_dict("records")
    (plain,) = read(document)["changes"]
    assert (row["ratio"], plain["ratio"], plain["low"], row["outcome"]) == (2.0, 2.0, None, "not judged")
    assert provenance_path(csv).exists()


@pytest.mark.parametrize("text", ["", '{"figures": {"x": {"value": 1', "\x00", "[" * 100_000])
def test_a_benchmark_that_was_cut_off_is_named(tmp_path: Path, text: str) -> None:
    good = write_benchmark_run(tmp_path / "a.json", {"x": (1.0, "s")}, origin(0))
    (tmp_path / "cut.json").write_text(text)
    with pytest.raises(ComparisonError, match=r"cut\.json is no JSON, or was cut off .*anew"):
        compare(good, tmp_path / "cut.json")


@pytest.mark.parametrize(
    "document",
    [
        {"figures": 5, "provenance": {}},
        {"figures": {"x": 1.0}},
        {"figures": {"x": {"unit": "s", "value": "fast"}}},
        {"figures": {"x": {"unit": None, "value": 1}}},
        {"figures": {}, "provenance": {"cores": 5}},
        {"figures": {}, "provenance": None},
    ],
)
def test_json_of_another_program_is_named(tmp_path: Path, document: dict[str, object]) -> None:
    good = write_benchmark_run(tmp_path / "a.json", {"x": (1.0, "s")}, origin(0))
    made = {"provenance": origin(0).as_dict()} | document
    (tmp_path / "other.json").write_text(json.dumps(made))
    with pytest.raises(ComparisonError, match=r"other\.json is no benchmark as ours are written"):
        compare(good, tmp_path / "other.json")


def test_hidden_folders_beside_the_runs_count_as_none(tmp_path: Path) -> None:
    sides = write_benchmark_pairs(tmp_path, noisy(1), noisy(2))
    for side in sides:
        write_benchmark_run(side / ".ipynb_checkpoints" / "0.json", {"x": (1.0, "s")}, origin(0))
        write_metrics(side / ".hidden", capacity_rows("engine", [1.0]), origin(0))
    assert [len(read_runs(side)) for side in sides] == [PAIRS, PAIRS]


def test_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    folder = write_metrics(tmp_path / "a", capacity_rows("simulator", [1.0]), origin(0))
    write_result(folder / "empty.csv", b"", origin(0))
    with pytest.raises(ComparisonError, match=r"empty\.csv is no table"):
        read_runs(folder)


def test_an_output_that_cannot_be_written_is_no_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = [str(side) for side in write_benchmark_pairs(tmp_path, noisy(1), noisy(2))]
    assert main(["compare", *sides, "--fail-on-regression", "--output", "/proc/x"]) == 2
    assert "error: " in capsys.readouterr().err
