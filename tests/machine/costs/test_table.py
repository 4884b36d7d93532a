import numpy as np
import pandas as pd
import pytest

from tests.support.builders import make_costs
from veltair.machine.costs.disturbance import AWAY
from veltair.machine.costs.table import COLUMNS, NO_REPEAT, CostTable

NAN = float("nan")


def table(*rows: tuple[object, ...]) -> pd.DataFrame:
    """Return repeats of (model, layer, version, cores, level, repeat, seconds, traffic, footprint)."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def row(
    seconds: float,
    *,
    model: str = "net",
    layer: int = 0,
    version: int = 0,
    cores: int = 1,
    level: float = 0.0,
    repeat: int = 0,
    traffic: float = 8.0,
) -> tuple[object, ...]:
    return (model, layer, version, cores, level, repeat, seconds, traffic, 16.0 + version)


def test_the_time_of_a_cell_is_the_median_of_its_repeats() -> None:
    repeats = table(*[row(seconds, repeat=n, traffic=n) for n, seconds in enumerate((9.0, 2.0, 1.0))])
    costs = CostTable(repeats, "here").model("net")
    assert costs.seconds.tolist() == [[[[2.0]]]]
    assert costs.traffic_bytes.tolist() == [[[[1.0]]]]


def test_noise_is_each_repeat_over_the_median_of_its_own_cell() -> None:
    repeats = table(
        row(1.0, repeat=0), row(2.0, repeat=1), row(4.0, repeat=2), row(8.0, layer=1), row(6.0, cores=2)
    )
    assert CostTable(repeats, "here").model("net").noise.tolist() == [0.5, 1.0, 2.0, 1.0, 1.0]


def test_noise_can_be_that_of_undisturbed_repeats_and_a_part_of_the_table_keeps_to_it() -> None:
    repeats = table(*[row(seconds, repeat=n) for n, seconds in enumerate((1.0, 1.2, 0.9))])
    costs = CostTable(repeats.assign(**{AWAY: [0.0, 0.0, 0.5]}), "here")
    assert costs.model("net").noise.tolist() == [1.0, 1.2, 0.9]
    left = costs.with_noise("undisturbed")
    assert left.model("net").noise.tolist() == left.select(["net"]).model("net").noise.tolist() == [1.0, 1.2]
    assert left.model("net").seconds.tolist() == costs.model("net").seconds.tolist()
    assert costs.model("net").noise.tolist() == [1.0, 1.2, 0.9]
    assert left.with_noise("none").model("net").noise.tolist() == [1.0]


def test_a_modelled_time_is_its_cell_s_and_no_noise() -> None:
    repeats = table(row(1.0, repeat=0), row(3.0, repeat=1), row(5.0, cores=2, repeat=NO_REPEAT))
    costs = CostTable(repeats, "here").model("net")
    assert costs.seconds.tolist() == [[[[2.0], [5.0]]]]
    assert costs.noise.tolist() == [0.5, 1.5]


def test_of_modelled_times_alone_there_is_no_noise() -> None:
    assert CostTable(table(row(5.0, repeat=NO_REPEAT)), "here").model("net").noise.tolist() == [1.0]


def test_repeats_in_any_order_and_with_any_index_give_the_same_table() -> None:
    rows = [
        row(1.0 + n + 10 * layer + 100 * version, layer=layer, version=version, cores=cores, repeat=n)
        for n in range(3)
        for layer in range(2)
        for version in range(2)
        for cores in (1, 4)
    ]
    repeats = table(*rows)
    shuffled = repeats.sample(frac=1.0, random_state=1)
    expected, found = (CostTable(frame, "here").model("net") for frame in (repeats, shuffled))
    assert np.array_equal(found.seconds, expected.seconds)
    assert sorted(found.noise) == sorted(expected.noise)


def test_a_version_that_a_layer_does_not_have_takes_for_ever_and_moves_nothing() -> None:
    costs = CostTable(table(row(3.0), row(5.0, layer=1), row(4.0, layer=1, version=1)), "here").model("net")
    assert costs.seconds[:, :, 0, 0].tolist() == [[3.0, np.inf], [5.0, 4.0]]
    assert costs.traffic_bytes[:, :, 0, 0].tolist() == [[8.0, 0.0], [8.0, 8.0]]
    assert costs.footprint_bytes.tolist() == [[16.0, 0.0], [16.0, 17.0]]


def test_a_missing_higher_level_reads_as_the_nearest_lower_one() -> None:
    costs = make_costs(
        {"net": np.array([[[[1.0, 2.0, 3.0], [4.0, NAN, 6.0], [5.0, 7.0, NAN]]]])},
        cores=(1, 2, 4),
        levels=(0.0, 0.5, 1.0),
    )
    assert costs.model("net").seconds.tolist() == [[[[1.0, 2.0, 3.0], [4.0, 4.0, 6.0], [5.0, 7.0, 7.0]]]]


def test_cores_and_levels_ascend_whatever_the_order_of_the_rows() -> None:
    repeats = table(
        row(4.0, cores=4), row(1.0), row(2.0, level=0.5), row(3.0, cores=2, level=0.25), row(3.0, cores=2)
    )
    costs = CostTable(repeats, "here")
    assert (costs.cores, costs.levels) == ((1, 2, 4), (0.0, 0.25, 0.5))
    assert [costs.core_index(cores) for cores in (1, 2, 4)] == [0, 1, 2]


def test_the_solo_version_is_the_fastest_alone_over_all_core_counts() -> None:
    # Version 0 wins on one core (5 < 6), version 1 on four (2 < 3), and that is the least time of all.
    # Under pressure version 0 would be the fastest by far: that does not count.
    seconds = np.array([[[[5.0, 1.0], [3.0, 1.0]], [[6.0, 9.0], [2.0, 9.0]]]])
    costs = make_costs({"net": seconds}, cores=(1, 4), levels=(0.0, 1.0))
    assert costs.model("net").solo.tolist() == [1]
    assert costs.solo_seconds("net").tolist() == [[6.0, 2.0]]
    assert costs.solo_seconds("net", level=1).tolist() == [[9.0, 9.0]]


def test_a_query_alone_takes_the_count_that_suits_it_best_though_more_cores_are_there() -> None:
    # Two layers: 4 + 4 on one core, 2 + 3 on two, 1 + 7 on four.
    seconds = np.array([[[[4.0], [2.0], [1.0]]], [[[4.0], [3.0], [7.0]]]])
    assert make_costs({"net": seconds}, cores=(1, 2, 4)).isolated_latency_s("net") == 5.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, NAN, float("inf")])
def test_times_that_are_none_are_refused(seconds: float) -> None:
    message = f"cost table of here: layer 1 of net takes {seconds} s; .*rerun rule `profile`"
    with pytest.raises(ValueError, match=message):
        CostTable(table(row(1.0), row(seconds, layer=1)), "here")


def test_a_table_without_a_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"columns \['level', 'seconds'\] are missing"):
        CostTable(table(row(1.0)).drop(columns=["seconds", "level"]), "here")


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="cost table of here is empty; rerun rule `profile`"):
        CostTable(table(), "here")


def test_a_table_without_level_0_is_refused() -> None:
    with pytest.raises(ValueError, match="no level 0; profile each version alone first"):
        CostTable(table(row(1.0, level=0.5)), "here")


def test_a_layer_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 1 of net has no row at level 0"):
        CostTable(table(row(1.0), row(1.0, layer=2)), "here")


def test_a_version_profiled_under_pressure_only_is_refused() -> None:
    rows = [row(1.0), row(1.0, cores=2), row(1.0, version=1), row(2.0, version=1, cores=2, level=0.5)]
    with pytest.raises(ValueError, match="version 1 of layer 0 of net on 2 cores has no row at level 0"):
        CostTable(table(*rows), "here")


def test_a_model_that_was_not_profiled_is_named_with_those_that_were() -> None:
    costs = CostTable(table(row(1.0), row(1.0, model="mesh")), "here")
    assert costs.models == ("net", "mesh")
    message = r"model nett was not profiled on here \(the table has net, mesh\); add it to `models`"
    with pytest.raises(LookupError, match=message):
        costs.model("nett")


def test_a_core_count_that_was_not_profiled_is_named_with_those_that_were() -> None:
    costs = CostTable(table(row(1.0), row(1.0, cores=4)), "here")
    message = r"3 cores were not profiled on here \(the table has \(1, 4\)\); add 3 to `profile.cores`"
    with pytest.raises(LookupError, match=message):
        costs.core_index(3)


def test_a_selection_has_the_named_models_only() -> None:
    costs = CostTable(table(row(1.0), row(2.0, model="mesh")), "here").select(["mesh"])
    assert (costs.models, costs.machine) == (("mesh",), "here")
    assert costs.isolated_latency_s("mesh") == 2.0


def test_a_selection_of_a_model_that_was_not_profiled_is_an_error() -> None:
    with pytest.raises(LookupError, match="model nett was not profiled"):
        CostTable(table(row(1.0)), "here").select(["net", "nett"])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("layer", -1, "layer is not a whole number from 0"),
        ("layer", 2.5, "layer is not a whole number"),
        ("layer", 7, "layer 1 of net has no row"),
        ("version", 2**40, "version is not a whole number from 0 to 256"),
        ("cores", 0, "cores is not a whole number from 1"),
        ("level", 1.5, "level is not a number from 0.0 to 1.0"),
        ("level", float("nan"), "level is not a number"),
        ("traffic_bytes", float("inf"), "traffic_bytes is not a number"),
        ("traffic_bytes", -1.0, "traffic_bytes is not a number"),
        ("seconds", "fast", "seconds has no numbers"),
        ("repeat", True, "repeat has no numbers"),
    ],
)
def test_a_number_that_no_row_can_have_is_refused(column: str, value: object, message: str) -> None:
    rows = [("net", layer, 0, 1, 0.0, 0, 0.001, 10.0, 5.0) for layer in (0, 1)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({column: object})
    frame[column] = [value if column in ("seconds", "repeat") else frame.loc[0, column], value]
    with pytest.raises(ValueError, match=message):
        CostTable(frame.infer_objects(), "toy")


def test_tables_of_one_model_each_are_joined_under_the_names_that_are_given() -> None:
    fast, slow = (make_costs({"net": np.full((2, 1, 2, 1), seconds)}, (1, 2)) for seconds in (1.0, 3.0))
    both = CostTable.joined({"shop/net": fast, "bank/net": slow})
    assert both.models == ("shop/net", "bank/net")
    assert both.isolated_latency_s("shop/net") == 2.0
    assert both.isolated_latency_s("bank/net") == 6.0
    assert set(both.repeats["model"]) == {"shop/net", "bank/net"}
    assert fast.models == ("net",)
    again = both.with_noise("all").stretched([1.0, 2.0]).select(["bank/net"])
    assert again.isolated_latency_s("bank/net") == 6.0


def test_tables_of_unlike_machines_core_counts_or_levels_are_not_joined() -> None:
    one = make_costs({"net": np.ones((1, 1, 1, 1))}, (1,))
    others = [
        make_costs({"net": np.ones((1, 1, 1, 1))}, (1,), machine="other"),
        make_costs({"net": np.ones((1, 1, 1, 1))}, (2,)),
        make_costs({"net": np.ones((1, 1, 1, 2))}, (1,), levels=(0.0, 1.0)),
    ]
    for other in others:
        with pytest.raises(ValueError, match="profile both alike"):
            CostTable.joined({"one": one, "other": other})
    with pytest.raises(ValueError, match="give one model's"):
        CostTable.joined({"one": make_costs({name: np.ones((1, 1, 1, 1)) for name in "ab"}, (1,))})
    with pytest.raises(ValueError, match="no cost tables"):
        CostTable.joined({})
