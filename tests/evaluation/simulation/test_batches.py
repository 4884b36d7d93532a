from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.support.table_builders import config_values, make_tables
from veltair.compiler.frontend.model import Layer
from veltair.config import Config, parse
from veltair.evaluation.experiment.scenario import scenario_of
from veltair.evaluation.simulation.batches import batched_tables
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable

SLOWER = 3.0  # a network for four queries, than one for one: as no description has it


def config(batches: list[int], built: list[int]) -> Config:
    values = config_values(profile={"costs": "measured"})
    values["models"]["small"] |= {"batches": batches, "built_batches": built}
    return parse(values)


def tables(macs: int = 4) -> Tables:
    """Return tables in which a network for four queries was profiled, of `macs` times as many MACs."""
    known = make_tables()
    known = replace(
        known,
        layers={
            name: tuple(replace(layer, weight_bytes=100) for layer in layers)
            for name, layers in known.layers.items()
        },
    )
    rows = known.costs.repeats[known.costs.repeats["model"] == "small"]
    four = rows.assign(model="small-x4", seconds=SLOWER * rows["seconds"])
    repeats = pd.concat([known.costs.repeats, four], ignore_index=True)
    layers = tuple(
        Layer(one.name, f"{one.structure}-x4", macs * one.macs, one.weight_bytes)
        for one in known.layers["small"]
    )
    return replace(
        known,
        layers={**known.layers, "small-x4": layers},
        tilings={**known.tilings, "small-x4": known.tilings["small"]},
        costs=CostTable(repeats, known.costs.machine),
    )


def test_batches_that_were_built_cost_what_was_measured_and_others_what_is_described() -> None:
    given = config([1, 2, 4], [4])
    found, names = batched_tables(given, tables(), "mix")
    assert names == {"small": {2: "small x2", 4: "small-x4"}}
    seconds = {name: found.costs.model(name).seconds for name in ("small", "small x2", "small-x4")}
    assert np.allclose(seconds["small-x4"], SLOWER * seconds["small"])
    assert (seconds["small x2"] > seconds["small"]).all()
    context = scenario_of(given, found, "mix", names).context
    assert context.costs_name("small", 4) == "small-x4"


def test_without_a_network_all_batches_are_described() -> None:
    found, names = batched_tables(config([1, 2, 4], []), tables(), "mix")
    assert names == {"small": {2: "small x2", 4: "small x4"}}
    assert {"small x2", "small x4"} <= set(found.costs.models)


def test_a_network_that_was_not_profiled_is_named() -> None:
    with pytest.raises(LookupError, match=r"models.small.built_batches: 2 is not in the tables of"):
        batched_tables(config([1, 2, 4], [2]), tables(), "mix")


def test_a_network_of_other_layers_does_not_stand_for_the_model() -> None:
    with pytest.raises(LookupError, match=r"built_batches: 4 was fused into 2 layers that are not 4 times"):
        batched_tables(config([1, 4], [4]), tables(macs=3), "mix")
