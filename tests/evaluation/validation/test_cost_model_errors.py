from math import isnan

import pandas as pd
import pytest

from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import Layer
from veltair.evaluation.validation import cost_model_errors as cost_model
from veltair.evaluation.validation.cost_model_errors import cost_error_median, cost_errors
from veltair.machine.costs.cost_model_fit import Fit, ScaledLayer
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.topology.topology import Machine

HOST = Machine("host", 1, ((0, 1),), 2**18, 10**6, 1e9, 1e9, validated=True)
PARALLEL, SERIAL = Tiling(2, 10, 20), Tiling(1, 10, 20)


def tables(*models: str, layers: tuple[Tiling, ...] = (PARALLEL, SERIAL), two_cores_s: float = 1.0) -> Tables:
    """Return tables of models whose layers take 2 s on one core, and so long on two."""
    rows = [
        (model, layer, 0, cores, 0.0, repeat, time_s, 1.0, 1.0)
        for model in models
        for layer in range(len(layers))
        for cores, time_s in ((1, 2.0), (2, two_cores_s))
        for repeat in range(3)
    ]
    return Tables(
        HOST,
        {
            model: tuple(Layer(f"conv{index}", f"s{index}", 0) for index in range(len(layers)))
            for model in models
        },
        {model: tuple((tiling,) for tiling in layers) for model in models},
        CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "host"),
    )


def test_the_model_and_the_null_model_are_compared_with_what_was_measured() -> None:
    errors = cost_errors(tables("net", layers=(PARALLEL, SERIAL), two_cores_s=1.25))
    at_two = errors[errors["cores"] == 2].sort_values("layer")
    # Two rounds become one: 1 s. The serial layer keeps its 2 s, which the null model halves.
    assert at_two["modelled_s"].tolist() == pytest.approx([1.0, 2.0], rel=1e-6)
    assert at_two["null_s"].tolist() == [1.0, 1.0]
    assert at_two["error"].tolist() == pytest.approx([0.2, 0.6], rel=1e-6)
    assert at_two["null_error"].tolist() == pytest.approx([0.2, 0.2])


def test_every_measured_version_and_core_count_has_a_row() -> None:
    errors = cost_errors(tables("a", "b"))
    assert len(errors) == 2 * 2 * 2
    assert list(errors.columns) == cost_model.COLUMNS


def test_what_a_layer_is_tested_with_was_fitted_on_other_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[tuple[str, int]]] = []

    def fit(cells: list[ScaledLayer], _: Machine) -> Fit:
        seen.append({(cell.model, cell.layer) for cell in cells})
        return Fit(1.0, {}, 0.0)

    monkeypatch.setattr(cost_model, "fit_cost_model", fit)
    errors = cost_errors(tables("a", "b"))
    # Both models have layers of structures s0 and s1.
    assert seen == [{("a", 1), ("b", 1)}, {("a", 0), ("b", 0)}]
    assert dict(zip(errors["layer"], errors["fold"], strict=True)) == {
        0: "even structures",
        1: "odd structures",
    }


def test_times_on_one_core_are_inputs_and_do_not_flatter_the_median() -> None:
    errors = cost_errors(tables("net", layers=(SERIAL, SERIAL), two_cores_s=1.25))
    assert errors.loc[errors["cores"] == 1, "error"].max() < 1e-9
    assert cost_error_median(errors) == pytest.approx(0.6, rel=1e-6)
    assert cost_error_median(errors, "null_error") == pytest.approx(0.2)


def test_what_a_fork_costs_is_learnt_from_the_other_layers() -> None:
    errors = cost_errors(tables("net", layers=(PARALLEL, PARALLEL), two_cores_s=1.25))
    assert errors.loc[errors["cores"] == 2, "fork_s"].tolist() == pytest.approx([0.25, 0.25], rel=1e-6)
    assert cost_error_median(errors) < 1e-6


def test_the_median_of_tables_of_one_core_is_unknown() -> None:
    errors = cost_errors(tables("net"))
    assert isnan(cost_error_median(errors[errors["cores"] == 1]))
