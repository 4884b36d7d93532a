from pathlib import Path

import pytest
from table_builders import make_config

from veltair.compiler.shipped import SHIPPED
from veltair.compiler.store import FILES
from veltair.config import load
from veltair.evaluation.layout import SHIPPED_COSTS, Layout

ROOT = Path(__file__).parents[2]
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


def test_what_is_not_shipped_comes_from_a_search_if_asked_for() -> None:
    mixed = layout(search={"missing": "search"})
    assert mixed.candidates() == [*layout().candidates(), *SEARCHED]
    assert (mixed.searches, layout().searches) == (True, False)


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
    generated = [*changed.run_folders(), changed.tables("host")]
    assert {path.parts[0] for path in generated} == {"here"}
    assert {path.parts[0] for path in changed.figures()} == {"there"}


def test_there_is_a_folder_for_each_policy_measured_and_on_each_machine() -> None:
    folders = layout(profile={"costs": "measured"}, simulated=SIMULATED, measured=MEASURED).run_folders()
    assert [str(folder) for folder in folders] == [
        "results/measured/mix/FcfsMin",
        "results/measured/mix/Planaria",
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
    assert len(figures) == len(set(figures)) == 6
    assert {path.suffix for path in figures} == {".png", ".svg"}
