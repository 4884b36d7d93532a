from pathlib import Path

import pytest

from tests.support.table_builders import make_config, write_made_up_tables
from veltair.compiler.select.shipped import SHIPPED
from veltair.compiler.select.store import FILES
from veltair.config import ConfigError, load, parse
from veltair.evaluation.experiment import layout as layout_module
from veltair.evaluation.experiment.layout import SHIPPED_COSTS, Layout, check_shipped

ROOT = Path(__file__).parents[3]
SIMULATED = {"machines": ["host", "threadripper-3990x"], "workloads": ["mix"]}
MEASURED = {"enabled": True, "workloads": ["mix"]}


def layout(**changes) -> Layout:
    return Layout(make_config(**changes))


def test_shipped_costs_stand_for_the_host_only() -> None:
    shipped = layout(profile={"costs": "shipped"})
    assert shipped.tables("host") == SHIPPED_COSTS
    assert shipped.tables("threadripper-3990x") == Path("results/costs/threadripper-3990x")


def test_measured_costs_lie_in_the_results() -> None:
    assert layout(profile={"costs": "measured"}).costs("host") == Path("results/costs/host/costs.parquet")


SEARCHED = [Path("results/search") / name for name in FILES]


def test_candidates_are_the_shipped_ones_of_every_instruction_set() -> None:
    found = layout().candidates()
    assert {path.name for path in found} == set(FILES)
    assert all(path.parents[1] == SHIPPED for path in found)


def test_candidates_are_those_of_the_search_where_none_are_reused() -> None:
    assert layout(search={"reuse": False}).candidates() == SEARCHED


@pytest.mark.parametrize("missing", ["search", "own"])
def test_what_is_not_shipped_comes_from_a_search_if_asked_for(missing: str) -> None:
    mixed = layout(search={"missing": missing})
    assert mixed.candidates() == [*layout().candidates(), *SEARCHED]
    assert (mixed.searches, layout().searches) == (True, False)


def test_the_figure_of_the_traffic_is_none_of_the_paper_s() -> None:
    found = layout(figures={"folder": "there", "formats": ["png", "svg"]})
    assert found.traffic_figure() == [Path(f"there/validation_traffic.{form}") for form in ("png", "svg")]
    assert not set(found.traffic_figure()) & {*found.validation_figures(), *found.paper_figure_files()}


def test_shipped_folders_are_in_the_package() -> None:
    assert SHIPPED_COSTS == ROOT / "veltair" / "data" / "costs"
    assert SHIPPED == ROOT / "veltair" / "data" / "candidates"


def test_everything_generated_lies_in_the_folders_of_the_configuration() -> None:
    changed = layout(
        profile={"costs": "measured"},
        measured=MEASURED,
        results={"folder": "here"},
        figures={"folder": "there", "formats": ["png"]},
    )
    generated = [*changed.measured_folders(), *changed.simulated_folders(), changed.tables("host")]
    assert {path.parts[0] for path in generated} == {"here"}
    assert {path.parts[0] for path in changed.figures()} == {"there"}


def test_there_is_a_folder_for_each_policy_on_each_machine_and_one_for_all_that_are_measured() -> None:
    found = layout(profile={"costs": "measured"}, simulated=SIMULATED, measured=MEASURED)
    assert found.measured_folders() == [Path("results/measured/mix")]
    assert [str(folder) for folder in found.simulated_folders()] == [
        "results/simulated/host/mix/FcfsMin",
        "results/simulated/host/mix/Planaria",
        "results/simulated/threadripper-3990x/mix/FcfsMin",
        "results/simulated/threadripper-3990x/mix/Planaria",
    ]


@pytest.mark.parametrize(
    ("measured", "simulated", "machines"),
    [
        (True, ["host", "threadripper-3990x"], ["host", "threadripper-3990x"]),
        (True, ["threadripper-3990x"], ["host", "threadripper-3990x"]),
        (False, ["threadripper-3990x"], ["threadripper-3990x"]),
        (True, None, ["host"]),
    ],
)
def test_results_are_about_the_simulated_machines_and_the_measured_host(
    measured, simulated, machines
) -> None:
    changed = layout(
        profile={"costs": "measured"},
        measured=MEASURED | {"enabled": measured},
        simulated=SIMULATED | {"machines": simulated} if simulated else {"enabled": False},
    )
    assert changed.machines() == machines


def test_there_is_a_figure_of_each_kind_in_each_format() -> None:
    figures = Layout(load([ROOT / "workflow" / "config" / "config.yaml"])).figures()
    assert len(figures) == len(set(figures)) == 14
    assert figures[0].stem == "measured"  # a newcomer sees it first
    assert {path.suffix for path in figures} == {".png", ".svg"}


def test_figures_at_loads_that_no_run_has_are_left_out() -> None:
    simulated = SIMULATED | {"loads": [0.5, 0.8]}
    names = layout(simulated=simulated).compared_figures()
    assert "paper_latency" in names and "paper_efficiency" not in names


def test_a_run_that_only_measures_or_only_simulates_has_the_figures_and_tables_of_that() -> None:
    only = layout(profile={"costs": "measured"}, simulated={"enabled": False}, measured=MEASURED)
    assert only.compared_figures() == ["measured", "latency"]
    names = [path.stem for path in only.metric_tables()]
    assert "curves" in names
    assert "capacity_seeds" not in names
    assert only.simulated_folders() == []
    simulated = layout(simulated=SIMULATED)
    assert "measured" not in simulated.compared_figures()
    assert "curves" not in [path.stem for path in simulated.metric_tables()]


START = {"title": "cost of a start", "key": "simulated.start_cost_us", "values": [20, 55]}
PLACEMENT = {"title": "placement", "key": "simulated.placement", "values": ["spread", "pinned"]}


def test_values_that_the_run_has_anyway_share_a_cell() -> None:
    cells = layout(sensitivity={"start": START, "placement": PLACEMENT}).sensitivity()
    folder = Path("results/study/sensitivity")
    assert cells == {
        ("start", 0): folder / "start/0.csv",
        ("start", 1): folder / "_usual/0.csv",
        ("placement", 0): folder / "_usual/0.csv",
        ("placement", 1): folder / "placement/1.csv",
    }


def test_policies_of_the_study_alone_are_not_compared() -> None:
    folders = layout(compared=["Planaria"], simulated=SIMULATED).simulated_folders()
    assert {folder.name for folder in folders} == {"Planaria"}


def test_without_a_study_there_are_none_of_its_files() -> None:
    plain = layout(sensitivity={"start": START})
    assert (plain.cells(), plain.study_tables(), plain.paper_figure_files()) == ({}, [], [])


def test_shipped_tables_without_a_model_that_is_simulated_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(layout_module, "SHIPPED_COSTS", write_made_up_tables(tmp_path))
    check_shipped(make_config())
    more = make_config().model_dump(mode="json")
    more["models"]["huge"] = more["models"]["large"]
    more["workloads"]["mix"]["huge"] = 1
    with pytest.raises(ConfigError, match=r"lack huge \(they have small, large\)"):
        check_shipped(parse(more))


def test_loads_of_a_policy_are_taken_from_its_own_capacity_and_planaria_s() -> None:
    assert layout().load_policies("FcfsMin") == ["FcfsMin", "Planaria"]
    assert layout().load_policies("Planaria") == ["Planaria"]


def test_without_planaria_loads_are_taken_from_all_capacities() -> None:
    paths = {name: {"path": "baselines.fcfs_min:FcfsMin"} for name in ("A", "B")}
    assert layout(policies=paths).load_policies("A") == ["A", "B"]


def test_timelines_are_drawn_of_measured_runs_that_record_them() -> None:
    measured = {"enabled": True, "workloads": ["mix"]}
    profiled = {"costs": "measured"}
    assert layout(measured=measured, profile=profiled).timelines() == []
    recorded = layout(measured={**measured, "timeline": True}, profile=profiled, figures={"folder": "f"})
    assert recorded.timelines() == [Path("f/timelines/mix")]


def test_policies_are_shown_as_the_configuration_lists_them_and_get_colours_by_a_list_of_their_own() -> None:
    order = layout().policy_order()
    assert (order["rows"], order["styles"]) == (["FcfsMin", "Planaria"], ["FcfsMin", "Planaria"])
    changed = layout(figures={"styles": ["Planaria"]}).policy_order()
    assert (changed["rows"], changed["styles"]) == (["FcfsMin", "Planaria"], ["Planaria", "FcfsMin"])


def test_figures_are_told_the_options_of_each_policy_that_change_results_of_any() -> None:
    usual = {"order": "fcfs", "conflict": "shrink", "drop_late": "never", "admission": "all"}
    assert layout().policy_order()["options"] == {
        "FcfsMin": {**usual, "conflict": "wait"},
        "Planaria": usual,
    }


STUDY = {
    "enabled": True,
    "machine": "host",
    "noisy_neighbour": {"policies": ["Planaria"], "aggressor": "small"},
}


def test_the_noisy_neighbour_has_a_cell_a_policy_and_the_one_rule_one_a_workload_and_policy_too() -> None:
    found = layout(study=STUDY | {"equal_drops": {"policies": ["FcfsMin", "Planaria"]}})
    folder = Path("results/study")
    cells = found.cells()
    assert cells["noisy_neighbour"] == [folder / "noisy_neighbour/Planaria.csv"]
    assert cells["equal_drops"] == [
        folder / f"equal_drops/mix/{name}.csv" for name in ("FcfsMin", "Planaria")
    ]
    assert {"paper_noisy_neighbour", "paper_equal_drops"} <= set(found.paper_figures())
    assert found.equal_drops_table() == [Path("results/metrics/equal_drops.csv")]


def test_what_is_not_among_the_shipped_tables_is_not_redrawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(layout_module, "SHIPPED_STUDY", tmp_path)
    assert "paper_noisy_neighbour" not in layout(study=STUDY).redrawn()
    (tmp_path / "noisy_neighbour.csv").touch()
    assert "paper_noisy_neighbour" in layout(study=STUDY).redrawn()


def test_recorded_arrivals_are_files_that_runs_depend_on() -> None:
    traced = {"model": "small", "share": 1, "arrivals": "trace", "trace": "cam.csv"}
    assert layout(tenants={"shared": {"cam": traced}}).traces() == [Path("cam.csv")]
    assert layout().traces() == []


def test_families_of_policies_are_shown_together_before_those_that_have_none() -> None:
    order = layout(figures={"families": {"shares": ["Planaria"]}}).policy_order()
    assert order["rows"] == order["styles"] == ["Planaria", "FcfsMin"]
    assert order["families"] == [["Planaria"]]
