"""What choosing versions by pressure gains: worked out by hand on two made-up models."""

from dataclasses import replace

import pandas as pd
import pytest

from tests.support.table_builders import make_tables
from veltair.evaluation.simulation.version_choice import (
    SHOWN_LAYERS,
    choice_table,
    layer_table,
    policy_costs,
)
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable

CLASSES = {"light": ["small"], "heavy": ["large"]}


def row(table: pd.DataFrame, **keys: object) -> pd.Series:
    for name, value in keys.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def only_local_versions(tables: Tables, model: str) -> Tables:
    rows = tables.costs.repeats
    kept = rows[(rows["model"] != model) | (rows["version"] == 0)]
    return replace(tables, costs=CostTable(kept, tables.machine.name))


def test_what_another_version_gains_is_time_kept_over_time_at_best() -> None:
    # Version 0 takes 1 + 0.5 p times as long as alone, version 1 always 1.2 times as long as version 0 alone.
    found = choice_table(make_tables(slowdown=0.5).costs)
    half, full = (row(found, model="large", cores=2, level=level) for level in (0.5, 1.0))
    assert half["gain"] == pytest.approx(1.25 / 1.2 - 1)
    assert full["gain"] == full["gain_most"] == pytest.approx(1.5 / 1.2 - 1)
    assert full["slowdown"] == pytest.approx(1.5)
    assert (full["layers"], full["changed"], full["gaining"]) == (3, 3, 3)


def test_a_version_that_stays_the_fastest_gains_nothing() -> None:
    # At half of the pressure version 0 takes 1.15 times as long, less than version 1; at all of it 1.3 times.
    found = choice_table(make_tables(slowdown=0.3).costs)
    half, full = (row(found, model="small", cores=1, level=level) for level in (0.5, 1.0))
    assert (half["changed"], half["gain"], half["gain_most"]) == (0, 0.0, 0.0)
    assert (full["changed"], full["gaining"]) == (2, 2)


def test_a_gain_below_two_per_cent_changes_the_version_and_is_not_counted_as_gaining() -> None:
    # 1.21 / 1.2 is 0.8 % more.
    full = row(choice_table(make_tables(slowdown=0.21).costs), model="small", cores=1, level=1.0)
    assert (full["changed"], full["gaining"]) == (2, 0)


def test_on_all_cores_there_is_no_pressure() -> None:
    assert set(choice_table(make_tables(cores=4).costs)["cores"]) == {1, 2, 3}


def test_a_layer_of_one_version_is_not_counted() -> None:
    tables = only_local_versions(make_tables(slowdown=0.5), "small")
    full = row(choice_table(tables.costs), model="small", cores=1, level=1.0)
    assert (full["layers"], full["changed"], full["gain"]) == (0, 0, 0.0)


def test_policies_of_one_version_keep_the_one_that_is_fastest_on_any_count() -> None:
    # On 1 core version 0 is made 1.5 times slower than on others: version 1 is faster there, and not solo.
    tables = make_tables(slowdown=0.5)
    rows = tables.costs.repeats
    on_one = (rows["cores"] == 1) & (rows["version"] == 0)
    slower = rows.assign(seconds=rows["seconds"].where(~on_one, 1.5 * rows["seconds"]))
    full = row(choice_table(CostTable(slower, "host")), model="small", cores=1, level=1.0)
    assert full["gain"] == 0.0
    assert full["gain_over_solo"] == pytest.approx(1.5 * 1.5 / 1.2 - 1)


def test_pressure_is_read_at_the_clock_of_all_cores_where_that_is_known() -> None:
    tables = make_tables()
    busy = make_tables(slowdown=0.5).costs
    assert policy_costs(tables) is tables.costs
    assert policy_costs(replace(tables, busy_costs=busy)) is busy


def test_of_each_class_the_layers_are_shown_that_save_most_of_their_model_s_time() -> None:
    shown = layer_table(make_tables(slowdown=0.5), CLASSES)
    # `small` has two layers: 1 ms and 2 ms of work, of which another version saves a fifth.
    light = shown[shown["workload"] == "light"].drop_duplicates("layer")
    assert light["layer"].tolist() == [1, 0]
    assert light["saved"].tolist() == pytest.approx([2 / 3 * 0.2, 1 / 3 * 0.2])


def test_layers_of_one_structure_are_shown_once_and_three_of_a_class_at_most() -> None:
    tables = make_tables(slowdown=0.5)
    several = layer_table(tables, {"mix": ["small", "large"]})
    assert len(several.drop_duplicates(["model", "layer"])) == SHOWN_LAYERS
    alike = {
        name: tuple(replace(layer, structure="same") for layer in layers)
        for name, layers in tables.layers.items()
    }
    one = layer_table(replace(tables, layers=alike), {"mix": ["small", "large"]})
    assert len(one.drop_duplicates(["model", "layer"])) == 1


def test_a_shown_layer_has_all_versions_and_pressures_on_counts_that_leave_others_cores() -> None:
    shown = layer_table(make_tables(slowdown=0.5), CLASSES)
    one = shown[(shown["model"] == "small") & (shown["layer"] == 1)]
    assert len(one) == 2 * 3 * 3
    pressed = row(one, version=0, cores=2, level=1.0)
    assert pressed["seconds"] == pytest.approx(0.002 / 2 * 1.5)
    assert pressed["parallelism"] == 64
