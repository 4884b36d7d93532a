import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.figure_texts import overlaps, texts
from tests.support.plot_tables import SIX
from veltair.evaluation.figures.overview import efficiency_figure, latency_figure, qps_figure, save
from veltair.evaluation.figures.style import LABEL_WIDTH, Panels, fold
from veltair.evaluation.metrics.metrics import RATE_COLUMNS
from veltair.evaluation.reports.summary import summary_markdown

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
FIGURES = (qps_figure, latency_figure, efficiency_figure)
ENGINE = ("engine", "host", True)
SIMULATOR = ("simulator", "threadripper-3990x", False)
SITE_COLUMNS = ("backend", "machine", "validated")
LONG = "my_schedulers.experimental.slack_priced:SlackPricedElasticPolicyWithAdmission"


def tables(
    policies: Sequence[str] = SIX, sites: Sequence[tuple[str, str, bool]] = (ENGINE, SIMULATOR)
) -> Tables:
    """Plausible numbers: each policy reaches 20 % more than the last; the host is too slow for its QoS."""
    capacities, rates, targets = [], [], []
    for site in sites:
        named = dict(zip(SITE_COLUMNS, site, strict=True)) | {"workload": "mix"}
        scale = 1.0 if site == ENGINE else 30.0
        for rank, policy in enumerate(policies):
            qps = 4.0 * scale * 1.2**rank
            found = {"qps_at_95": qps, "qps_at_95_minimum": 0.9 * qps, "resolution": 0.05}
            capacities.append(named | {"policy": policy, "cut": False, "unservable": False} | found)
            for load in {0.7 * 4.0 * scale * 1.2 ** min(2, len(policies) - 1), qps, 1.3 * qps}:
                rates.append(named | {"policy": policy} | run(load, qps))
        relaxed = site == ENGINE
        row = {"machine": site[1], "model": "resnet50", "qos_table_s": 0.015, "isolated_latency_s": 0.006}
        targets.append(
            row | {"qos_s": 0.3 if relaxed else 0.015, "relaxed": relaxed, "work_optimal_core_s": 0.1}
        )
    return pd.DataFrame(capacities), pd.DataFrame(rates, columns=list(RATE_COLUMNS)), pd.DataFrame(targets)


def run(qps: float, capacity_qps: float) -> dict[str, object]:
    load = qps / capacity_qps
    return {
        "qps": qps,
        "seed": 1,
        "models": "resnet50",
        "window_s": 8.0,
        "queries": int(8 * qps),
        "satisfaction": min(1.0, 1.9 - 0.95 * load) if load > 0.95 else 1.0,
        "latency_mean_s": 0.01 * math.exp(3 * load),
        "cpu_efficiency": 0.6 - 0.1 * load,
        "conflict_rate": 0.1 * load,
    }


@pytest.mark.parametrize("figure", FIGURES)
def test_no_texts_cover_each_other_even_with_a_seventh_policy_of_a_long_name(figure: object) -> None:
    assert overlaps(figure(*tables([*SIX, LONG]))) == []


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_name_what_is_measured_and_what_is_unvalidated(figure: object) -> None:
    shown = texts(figure(*tables()))
    assert "host\nmeasured here" in shown
    assert "threadripper-3990x\nsimulated: UNVALIDATED" in shown


@pytest.mark.parametrize("figure", FIGURES)
def test_captions_tell_queries_seed_duration_resolution_and_relaxed_targets(figure: object) -> None:
    caption = " ".join(text.get_text() for text in figure(*tables()).texts).replace("\n", " ")
    assert "n = " in caption and "counted queries a run over 8 s, seed 1; resolution of QPS 5 %" in caption
    assert "* QoS relaxed" in caption and "resnet50 15 to 300 ms" in caption


@pytest.mark.parametrize("figure", FIGURES)
def test_axes_have_units(figure: object) -> None:
    shown = figure(*tables())
    labels = " ".join(axis.get_xlabel() + axis.get_ylabel() for axis in shown.axes)
    expected = {
        qps_figure: ["(queries/s)"],
        latency_figure: ["(queries/s)", "(ms)", "(% of queries)"],
        efficiency_figure: ["(%)", "(% of starts)"],
    }
    assert all(unit in labels for unit in expected[figure])


@pytest.mark.parametrize("figure", FIGURES)
def test_one_policy_on_one_machine_is_a_figure(figure: object) -> None:
    assert "Planaria" in texts(figure(*tables(["Planaria"], [ENGINE])))


def test_bars_carry_the_rate_and_its_ratio_to_planaria() -> None:
    shown = texts(qps_figure(*tables(sites=[ENGINE])))
    assert "4.8 (0.833×)" in shown and "5.76 (1×)" in shown  # noqa: RUF001 as printed


def test_unservable_missing_cut_and_open_searches_are_told_apart() -> None:
    capacity, rates, targets = tables(sites=[ENGINE, SIMULATOR])
    capacity["high_qps"] = capacity["qps_at_95"] * 1.05
    capacity.loc[0, ["qps_at_95", "qps_at_95_minimum", "unservable"]] = [0, 0, True]
    capacity.loc[1, ["cut", "resolution"]] = [True, 0.2]
    capacity.loc[3, ["cut", "high_qps"]] = [True, math.inf]
    shown = texts(qps_figure(capacity.drop(index=4), rates, targets))
    for text in ("unservable", "4.8†", "≥ 6.91†", "not run"):
        assert text in shown


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.filterwarnings("error")
def test_a_site_where_nothing_can_be_served_is_drawn(figure: object) -> None:
    capacity, rates, targets = tables(sites=[ENGINE])
    capacity = capacity.assign(qps_at_95=0.0, qps_at_95_minimum=0.0, resolution=np.nan, unservable=True)
    assert "is unservable" in texts(figure(capacity, rates, targets))


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.filterwarnings("error")
def test_metrics_that_are_no_numbers_are_drawn_as_gaps(figure: object) -> None:
    capacity, rates, targets = tables(sites=[ENGINE])
    missing = rates.assign(latency_mean_s=np.nan, cpu_efficiency=np.nan, conflict_rate=np.nan)
    assert figure(capacity, missing, targets).axes


def test_several_seeds_are_drawn_as_one_line_with_a_band() -> None:
    capacity, rates, targets = tables(["Planaria"], [ENGINE])
    twice = pd.concat([rates, rates.assign(seed=2, satisfaction=0.5 * rates["satisfaction"])])
    upper = latency_figure(capacity, twice, targets).axes[0]
    assert len(upper.collections) == 1
    assert max(upper.lines[0].get_ydata()) == pytest.approx(75)


@pytest.mark.parametrize(("slower", "top_ms"), [(1, 988.05), (100, 6000)])
def test_the_latency_axis_shows_the_qos_and_ends_at_twenty_times_it(slower: float, top_ms: float) -> None:
    # QoS 300 ms; at most 10 ms x e^3.9 = 494 ms, drawn up to twice that, or 49 s, cut at 20 x 300 ms.
    capacity, rates, targets = tables(["Planaria"], [ENGINE])
    figure = latency_figure(capacity, rates.assign(latency_mean_s=slower * rates["latency_mean_s"]), targets)
    assert figure.axes[1].get_ylim()[1] == pytest.approx(top_ms, rel=1e-3)


def test_a_policy_looks_the_same_whichever_others_are_shown() -> None:
    alone, among = (Panels(*tables(policies, [ENGINE])) for policies in (["Veltair-AC"], SIX))
    look = [
        (p.look.colours["Veltair-AC"], p.look.markers["Veltair-AC"], p.look.dashes["Veltair-AC"])
        for p in (alone, among)
    ]
    assert look[0] == look[1]


def test_bars_differ_by_hatch_where_colour_is_lost() -> None:
    bars = qps_figure(*tables(sites=[ENGINE])).axes[0].patches
    assert len({bar.get_hatch() for bar in bars}) == len(bars) == 6


@pytest.mark.parametrize("name", ["Planaria", "Veltair-FULL", LONG, "x" * 90])
def test_names_take_at_most_two_lines(name: str) -> None:
    lines = fold(name).split("\n")
    assert len(lines) <= 2 and max(map(len, lines)) <= LABEL_WIDTH + 1
    assert name.endswith("".join(lines).removeprefix("…"))


def test_nothing_to_draw_is_refused() -> None:
    capacity, rates, targets = tables()
    with pytest.raises(ValueError, match="nothing to draw"):
        qps_figure(capacity[:0], rates[:0], targets)
    with pytest.raises(ValueError, match="rates is empty"):
        latency_figure(capacity, rates[:0], targets)


def test_the_same_figure_has_the_same_bytes(tmp_path: Path) -> None:
    written = [
        [path.read_bytes() for path in save(qps_figure(*tables()), tmp_path / name, ("png", "svg", "pdf"))]
        for name in ("first", "second")
    ]
    assert written[0] == written[1]


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    here = save(latency_figure(*tables(["Planaria"], [ENGINE])), tmp_path / "here")
    program = (
        "import sys; from pathlib import Path; from tests.evaluation.figures import test_overview as t\n"
        "t.save(t.latency_figure(*t.tables(['Planaria'], [t.ENGINE])), Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], check=True, env=environment)
    for path in here:
        assert path.read_bytes() == path.with_name(f"there{path.suffix}").read_bytes()


def test_files_carry_no_date(tmp_path: Path) -> None:
    svg = save(qps_figure(*tables(["Planaria"], [ENGINE])), tmp_path / "qps", ("svg",))[0].read_text()
    assert "<dc:date>" not in svg


def test_a_stem_may_hold_a_dot(tmp_path: Path) -> None:
    paths = save(qps_figure(*tables(["Planaria"], [ENGINE])), tmp_path / "load-0.7")
    assert [path.name for path in paths] == ["load-0.7.png", "load-0.7.svg"]


def test_a_write_that_fails_leaves_the_old_figure_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(target: Path, _content: bytes) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    (tmp_path / "qps.png").write_bytes(b"old")
    monkeypatch.setattr("veltair.provenance._write_through", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(qps_figure(*tables(["Planaria"], [ENGINE])), tmp_path / "qps")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("qps.png", b"old")]


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from png, svg, pdf"):
        save(qps_figure(*tables(["Planaria"], [ENGINE])), tmp_path / "qps", ("png", "gif"))
    assert list(tmp_path.iterdir()) == []


def rows_of(text: str, start: str) -> list[str]:
    return [
        cell.strip()
        for line in text.splitlines()
        if line.startswith(f"| {start} ")
        for cell in line.split("|")
    ]


def test_the_summary_has_a_section_a_site_and_a_row_a_policy_in_order() -> None:
    text = summary_markdown(*tables(), figures=["figures/qps.png"])
    assert text.index("## host, measured here") < text.index("## threadripper-3990x, simulated: UNVALIDATED")
    indices = [text.index(f"| {policy} ") for policy in SIX]
    assert indices == sorted(indices)
    assert "- figures/qps.png" in text


def test_the_summary_gives_rates_ratios_and_latency_at_both_loads() -> None:
    cells = rows_of(summary_markdown(*tables(sites=[ENGINE])), "LayerWise")
    # 4.8 queries/s, 4.8 / 5.76 of Planaria's; 10 ms x e^3 at capacity, x e^(3 x 4.032 / 4.8) at 0.7 x 5.76.
    assert cells[2:8] == ["4.8", "4.32", "0.833", "1", "201", "124"]
    assert cells[8:10] == ["51.6 %", "8.4 %"]


def test_the_summary_shows_the_share_of_the_fluid_bound_where_it_is_known() -> None:
    capacity, rates, targets = tables(sites=[ENGINE])
    text = summary_markdown(capacity.assign(fluid_qps=9.6), rates, targets)
    assert "of the fluid bound" in text
    assert "50 %" in rows_of(text, "LayerWise")


def test_the_summary_tells_what_was_unservable_not_run_or_relaxed() -> None:
    capacity, rates, targets = tables(sites=[ENGINE])
    capacity.loc[0, ["qps_at_95", "qps_at_95_minimum", "unservable"]] = [0, 0, True]
    text = summary_markdown(capacity.drop(index=5), rates, targets)
    assert rows_of(text, "FcfsMin")[2:6] == ["unservable"] + ["\N{EN DASH}"] * 3
    assert rows_of(text, "Veltair-FULL")[2] == "not run"
    assert "resnet50 15 to 300 ms" in text and "nan" not in text


def test_a_name_with_a_bar_does_not_break_the_summarys_table() -> None:
    text = summary_markdown(*tables(["a|b"], [ENGINE]))
    line = next(line for line in text.splitlines() if "a\\|b" in line)
    assert line.replace("\\|", "").count("|") == 10
