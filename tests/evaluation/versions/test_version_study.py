import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pandas as pd
import pytest

from tests.support.table_builders import make_tables, write_made_up_tables
from veltair.compiler.build.build import FORMAT, PLAN, LayerPlan, ModelPlan
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select.select import Selection, rounds_costs
from veltair.compiler.select.shipped import AVX2
from veltair.compiler.select.store import SearchInfo, StoreError, write_store
from veltair.evaluation.figures.version_plots import saturation_figure, scatter_figure, sets_figure
from veltair.evaluation.versions.predicted_costs import modelled_costs
from veltair.evaluation.versions.version_steps import (
    described_stores,
    draw_version_figures,
    write_version_tables,
)
from veltair.evaluation.versions.version_study import (
    CostedMachine,
    measured_saturation,
    modelled_saturation,
    scatter,
    version_sets,
)
from veltair.machine.topology.described import described
from veltair.machine.topology.topology import Machine

SELECTION = Selection(1.5, 5)


def candidate(structure: str, index: int, parallelism: int, blocking_bytes: int, seconds: float) -> Candidate:
    return Candidate(
        structure, index, Tiling(parallelism, blocking_bytes, 10**6), (seconds,), ["trace", index]
    )


# On one core 1.0, 1.1 and 1.3 s. On two cores 1.0 s (no parallel loop), 0.55 s and 0.65 s.
CONV = [
    candidate("conv", 0, 1, 4000, 1.0),
    candidate("conv", 1, 2, 2000, 1.1),
    candidate("conv", 2, 64, 10, 1.3),
]
POOL = [candidate("pool", 0, 8, 100, 0.5)]
FOUND = {"conv": CONV, "pool": POOL}


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


def test_the_layer_with_most_macs_is_shown_unless_another_is_named() -> None:
    costs = rounds_costs([1])
    assert set(scatter(PLANS, FOUND, FOUND, SELECTION, costs, {})["layer"]) == {"layer0"}
    assert set(scatter(PLANS, FOUND, FOUND, SELECTION, costs, {"net": "layer2"})["structure"]) == {"pool"}


def test_a_layer_that_the_model_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(
        LookupError, match=r"figures\.layers: net has no layer 'x'; it has layer0, layer1, layer2"
    ):
        scatter(PLANS, FOUND, FOUND, SELECTION, rounds_costs([1]), {"net": "x"})


def test_a_candidate_is_shown_with_its_time_its_front_and_whether_it_was_built() -> None:
    slow = candidate("conv", 3, 100, 5000, 3.0)
    failed = replace(slow, index=4, run_seconds=())
    found = {"conv": [*CONV, slow, failed], "pool": POOL}
    table = scatter(PLANS, found, {"conv": CONV[:1]}, SELECTION, rounds_costs([1]), {}).set_index("candidate")
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


def small_machine() -> Machine:
    # 4 cores, an L3 of 1 MB, 10 FLOP/s a core and 1 MB/s.
    return Machine("small", 2, ((0, 1, 2, 3),), 2**19, 10**6, 10.0, 1e6, validated=False)


def test_a_described_machine_computes_by_peak_and_rounds() -> None:
    # 64 iterations of 1 s together: 32 rounds on 2 cores, 16 on 4, here with half its peak. All data fits.
    one = candidate("conv", 0, 64, 100, 64.0)
    assert modelled_costs(small_machine(), 5.0)(one) == pytest.approx([16.0, 8.0])


def test_a_described_machine_waits_for_its_memory_where_that_takes_longer() -> None:
    # A million bytes fit its L3: one second.
    one = candidate("conv", 0, 64, 100, 0.64)
    assert modelled_costs(small_machine(), 10.0)(one) == pytest.approx([1.0, 1.0])


def test_without_a_known_peak_the_cores_count_as_equally_fast() -> None:
    one = candidate("conv", 0, 64, 100, 64.0)
    assert modelled_costs(small_machine(), 0.0)(one) == modelled_costs(small_machine(), 10.0)(one)


def test_the_paper_s_machine_is_judged_at_its_core_unit_and_its_doublings() -> None:
    one = candidate("conv", 0, 10**6, 100, 64.0)
    assert len(modelled_costs(described("threadripper-3990x"), 1e11)(one)) == 4


@pytest.mark.parametrize("draw", [saturation_figure, scatter_figure, sets_figure])
def test_an_empty_table_is_not_drawn(draw) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"nothing to draw.*rerun rule `version_study`"):
        draw(pd.DataFrame())


def write_plan(folder: Path) -> None:
    folder.mkdir(parents=True)
    layers = [
        {"name": f"layer{n}", "structure": s, "macs": 9 - n, "inputs": [], "outputs": [], "dtypes": []}
        for n, s in enumerate(FOUND)
    ]
    document = {"format": FORMAT, "model": "net", "inputs": [], "layers": layers, "versions": {}}
    document |= {"outputs": [], "constants": []}
    (folder / PLAN).write_text(json.dumps(document))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    write_store(tmp_path / "store", FOUND, SearchInfo("x86-64-v3", 64, 1, 1.5, 1))
    write_plan(tmp_path / "net")
    costs = write_made_up_tables(tmp_path / "costs")
    machines = ["threadripper-3990x"]
    write_version_tables(
        {"net": tmp_path / "net"},
        [tmp_path / "store"],
        costs,
        SELECTION,
        machines,
        {},
        tmp_path / "tables",
        root=tmp_path,
    )
    return tmp_path / "tables"


def test_the_study_leaves_its_tables_and_each_figure_in_each_format(tables: Path, tmp_path: Path) -> None:
    assert {path.stem for path in tables.iterdir()} == {"saturation", "scatter", "sets"}
    draw_version_figures(tables, tmp_path / "figures", ["svg", "png"])
    wanted = {
        f"versions_{name}.{form}" for name in ("saturation", "scatter", "sets") for form in ("svg", "png")
    }
    assert {path.name for path in (tmp_path / "figures").iterdir()} == wanted


def test_the_same_tables_give_the_same_figures(tables: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_version_figures(tables, tmp_path / name, ["svg"])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_described_machine_takes_the_candidates_for_avx2_where_they_are_shipped(tmp_path: Path) -> None:
    stores = [tmp_path / "searched"]
    assert described_stores(stores, tmp_path) == stores
    write_store(tmp_path / AVX2, FOUND, SearchInfo("x86-64-v3", 64, 1, 1.5, 1))
    assert described_stores(stores, tmp_path) == [tmp_path / AVX2]


def test_an_infinite_slack_is_what_profiled_versions_are_chosen_with() -> None:
    # The second version is a fifth slower: with a slack of 1 it would be missing.
    table = measured_saturation(*costs_and_tilings())
    assert set(table["versions"]) == {1, 2}
    assert inf not in set(table["latency_s"])


def test_candidates_that_are_gone_since_the_build_are_named(tmp_path: Path) -> None:
    write_plan(tmp_path / "net")
    costs = write_made_up_tables(tmp_path / "costs")
    builds, folder = {"net": tmp_path / "net"}, tmp_path / "tables"
    with pytest.raises(
        StoreError, match=r"no store has candidates of conv, pool any more; rerun rule `build`"
    ):
        write_version_tables(builds, [], costs, SELECTION, [], {}, folder)
