from dataclasses import replace
from math import inf

import pandas as pd
import pytest

from tests.support.compiler.candidates import CONV, FOUND, POOL, SELECTION, candidate
from tests.support.table_builders import make_tables
from veltair.compiler.build.build import LayerPlan, ModelPlan
from veltair.compiler.select.select import Selection, rounds_costs
from veltair.evaluation.figures.version_plots import saturation_figure, scatter_figure, sets_figure
from veltair.evaluation.versions.version_study import (
    CostedMachine,
    measured_saturation,
    modelled_saturation,
    scatter,
    version_sets,
)


def plan(*structures: str) -> ModelPlan:
    """Return the plan of a model whose layers have these structures, the first with most MACs."""
    layers = tuple(
        LayerPlan(f"layer{number}", structure, 100 - number, (), (), ())
        for number, structure in enumerate(structures)
    )
    return ModelPlan("net", (), layers, {}, ())


PLANS = {"net": plan("conv", "conv", "pool")}


def latencies(table: pd.DataFrame, **where: object) -> list[float]:
    for column, value in where.items():
        table = table[table[column] == value]
    return list(table["latency_s"])


def test_the_modelled_latency_sums_the_best_version_of_each_layer() -> None:
    table = modelled_saturation(PLANS, FOUND, SELECTION, rounds_costs([2]), [1, 2])
    # By time on 2 cores the one version is number 1.
    assert latencies(table, cores=1, versions=1) == [pytest.approx(2 * 1.1 + 0.5)]
    assert latencies(table, cores=2, versions=1) == [pytest.approx(2 * 0.55 + 0.25)]
    assert list(table["versions"]) == 2 * list(range(1, 9))
    # Judged on one core too, number 0 is kept, which is the fastest there.
    table = modelled_saturation(PLANS, FOUND, SELECTION, rounds_costs([1, 2]), [1])
    assert latencies(table, versions=8) == [pytest.approx(2 * 1.0 + 0.5)]


def test_all_candidates_together_are_never_slower_than_a_selection() -> None:
    table = modelled_saturation(PLANS, FOUND, SELECTION, rounds_costs([1, 2, 4]), [1, 2, 64])
    assert (table["latency_s"] >= table["best_s"]).all()


def test_the_measured_latency_is_that_of_the_versions_kept() -> None:
    # Alone version 0 is the faster one, at pressure 1 it takes twice as long and version 1 1.2 times.
    table = measured_saturation(*costs_and_tilings(slowdown=1.0))
    small = table[table["model"] == "small"]
    assert latencies(small, cores=1, level=1.0, versions=1) == [pytest.approx(0.003 * 2)]
    assert latencies(small, cores=1, level=1.0, versions=2) == [pytest.approx(0.003 * 1.2)]
    assert latencies(small, cores=4, versions=1) == [pytest.approx(0.003 / 4)]


def test_on_all_cores_nothing_runs_beside() -> None:
    table = measured_saturation(*costs_and_tilings())
    assert set(zip(table["cores"], table["level"], strict=True)) == {(1, 0.0), (1, 0.5), (1, 1.0), (4, 0.0)}


def costs_and_tilings(slowdown: float = 0.0) -> tuple:  # type: ignore[type-arg]
    tables = make_tables(slowdown=slowdown)
    return tables.costs, tables.tilings


def test_the_layer_with_most_macs_is_shown() -> None:
    assert set(scatter(PLANS, FOUND, FOUND, SELECTION, rounds_costs([1]))["layer"]) == {"layer0"}


def test_a_candidate_is_shown_with_its_time_its_front_and_whether_it_was_built() -> None:
    slow = candidate("conv", 3, 100, 5000, 3.0)
    failed = replace(slow, index=4, run_seconds=())
    found = {"conv": [*CONV, slow, failed], "pool": POOL}
    table = scatter(PLANS, found, {"conv": CONV[:1]}, SELECTION, rounds_costs([1])).set_index("candidate")
    assert list(table.index) == [0, 1, 2, 3]
    assert list(table["relative"]) == pytest.approx([1.0, 1.1, 1.3, 3.0])
    assert list(table["front"]) == [True, True, True, False]
    assert list(table["chosen"]) == [True, False, False, False]


def test_what_another_machine_chooses_is_compared_with_what_this_one_does() -> None:
    one = Selection(1.0, 1)
    machines = [CostedMachine("here", rounds_costs([1])), CostedMachine("there", rounds_costs([64]))]
    table = version_sets(PLANS, FOUND, one, machines)
    assert list(
        zip(table["machine"], table["structure"], table["candidate"], table["shared"], strict=True)
    ) == [
        ("here", "conv", 0, True),
        ("there", "conv", 2, False),
        ("here", "pool", 0, True),
        ("there", "pool", 0, True),
    ]


def test_a_structure_without_candidates_counts_nowhere() -> None:
    table = version_sets(PLANS, {"pool": POOL}, SELECTION, [CostedMachine("here", rounds_costs([1]))])
    assert list(table["structure"]) == ["pool"]


@pytest.mark.parametrize("draw", [saturation_figure, scatter_figure, sets_figure])
def test_an_empty_table_is_not_drawn(draw) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"nothing to draw.*rerun rule `version_study`"):
        draw(pd.DataFrame())


def test_an_infinite_slack_is_what_profiled_versions_are_chosen_with() -> None:
    # The second version is a fifth slower: with a slack of 1 it would be missing.
    table = measured_saturation(*costs_and_tilings())
    assert set(table["versions"]) == {1, 2}
    assert inf not in set(table["latency_s"])
