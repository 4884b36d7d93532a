from dataclasses import replace

import numpy as np
import pytest

from tests.support.builders import make_costs, make_machine
from tests.support.evaluation.validation_builders import pressing_tables
from tests.support.table_builders import make_tables
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import Layer
from veltair.evaluation.simulation.run import SimulationSettings
from veltair.evaluation.validation.anchors import (
    Anchor,
    AnchorStudy,
    anchors,
    four_tenants,
    layer_wise,
    whole_cpu,
)
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.presets import make_policy

SETTINGS = SimulationSettings(queries=200, drain_qos=10.0)
STUDY = AnchorStudy(None, SETTINGS, 0.015, 2.3, 0.1, (1,))


def renamed(tables: Tables, old: str, new: str) -> Tables:
    """Return tables in which a model has another name."""
    repeats = tables.costs.repeats
    costs = CostTable(repeats.assign(model=repeats["model"].replace({old: new})), tables.costs.machine)
    layers, tilings = (
        {new if k == old else k: v for k, v in group.items()} for group in (tables.layers, tables.tilings)
    )
    return replace(tables, layers=layers, tilings=tilings, costs=costs)


def make_layer_wise(context: Context) -> Policy:
    return make_policy("baselines.layer_wise:LayerWise", context, "paper", {})


def test_the_whole_cpu_takes_what_the_solo_versions_take_on_all_cores() -> None:
    # 3 ms of work over 4 cores, the first version alone the fastest.
    anchor = whole_cpu(renamed(make_tables(cores=4), "small", "resnet50"))
    assert anchor.value == pytest.approx(0.75)
    assert anchor.deviation == pytest.approx(0.75 / 6 - 1)


def test_the_whole_cpu_is_not_the_best_count_of_cores() -> None:
    # On 2 of 4 cores it is faster: 2 ms against 5 ms.
    seconds = {"resnet50": np.array([0.004, 0.002, 0.003, 0.005]).reshape(1, 1, 4, 1)}
    tables = Tables(
        make_machine(4),
        {"resnet50": (Layer("one", "one", 1),)},
        {"resnet50": ((Tiling(4, 1, 1),),)},
        make_costs(seconds, (1, 2, 3, 4)),
    )
    assert whole_cpu(tables).value == pytest.approx(5.0)


def test_four_tenants_share_the_cores_in_quarters() -> None:
    # Three others ask for 0.25 of the bandwidth each: pressure 0.75, and 1 + 0.75 as long.
    anchor = four_tenants(renamed(pressing_tables(share=0.25), "small", "googlenet"), "spread")
    # Between the profiled levels 0.5 and 1 the table is linear.
    assert (anchor.value, anchor.null) == (pytest.approx(1.75), 1.0)


def test_layer_by_layer_scheduling_has_a_capacity_at_99_per_cent() -> None:
    tables = renamed(make_tables(cores=4, slowdown=1.0), "small", "resnet50")
    anchor = layer_wise(tables, replace(STUDY, make=make_layer_wise))
    assert anchor.value is not None and anchor.null == anchor.value > 0


def test_contention_that_slows_layers_lowers_the_capacity_below_the_null_models() -> None:
    tables = renamed(pressing_tables(share=0.5, slowdown=2.0), "small", "resnet50")
    anchor = layer_wise(tables, replace(STUDY, make=make_layer_wise))
    assert anchor.value is not None and anchor.null is not None
    assert anchor.value < anchor.null


def test_what_cannot_be_computed_says_what_to_do() -> None:
    found = anchors(make_tables(), STUDY)
    assert [anchor.value for anchor in found] == [None, None, None]
    assert "resnet50 is not in the cost tables: add it" in found[0].reason
    assert "googlenet is not in the cost tables: add it" in found[1].reason


def test_a_model_that_the_tables_lack_is_taken_from_the_shipped_ones_and_it_is_said() -> None:
    own = renamed(make_tables(cores=4), "small", "resnet50")
    shipped = renamed(pressing_tables(share=0.25), "small", "googlenet")
    whole, tenants, _ = anchors(own, STUDY, shipped)
    assert (whole.value, whole.statement) == (pytest.approx(0.75), "ResNet-50 on the whole CPU")
    assert tenants.value == pytest.approx(1.75)
    assert tenants.statement == "4 GoogLeNets on 16 cores each (shipped tables)"


def test_a_policy_that_the_configuration_lacks_is_named() -> None:
    tables = renamed(make_tables(), "small", "resnet50")
    assert layer_wise(tables, STUDY).reason == "add policy LayerWise to `policies`"


def test_a_number_without_a_value_has_no_deviation() -> None:
    assert Anchor("x", "x", "ms", 6.0).deviation is None
