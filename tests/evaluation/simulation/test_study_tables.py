"""Core needs, slowdowns and conflicts over time."""

import pytest

from tests.support.table_builders import make_config, make_tables
from veltair.compiler.frontend.model import LayerBlock
from veltair.evaluation.experiment.scenario import Scenario, make_scenario, policy_maker
from veltair.evaluation.simulation.run import SimulationSettings, scenario_arrivals
from veltair.evaluation.simulation.study_tables import binned, conflict_table, core_need_table, slowdown_table
from veltair.serving.loop.query import Query
from veltair.serving.loop.timeline import BlockSpan, Tenure

SETTINGS = SimulationSettings(100, 10.0)


def scenario_of(qos_s: float = 0.04) -> Scenario:
    return make_scenario(
        make_tables(), {"small": qos_s, "large": qos_s}, 0.0, "mix", {"small": 1, "large": 1}
    )


def span(start_s: float, end_s: float, cores: int, wanted_cores: int) -> BlockSpan:
    tenures = tuple(Tenure(core, start_s, start_s, end_s) for core in range(cores))
    block, query = LayerBlock("small", 0, 1), Query(0, "small", 0.0, 1.0)
    return BlockSpan(query, block, (0,), cores, wanted_cores, 0.0, start_s, end_s, tenures, (), True)


def test_bins_count_the_starts_and_conflicts_in_them_and_the_cores_held_over_their_time() -> None:
    # Two cores from 0 to 1 s, in conflict; four from 0.5 to 2.5 s.
    table = binned([span(0.0, 1.0, 2, 4), span(0.5, 2.5, 4, 4)], 4.0, 2)
    assert table["begin_s"].tolist() == [0.0, 2.0]
    assert table["end_s"].tolist() == [2.0, 4.0]
    assert table["starts"].tolist() == [2, 0]
    assert table["conflicts"].tolist() == [1, 0]
    # (2 x 1 s + 4 x 1.5 s) / 2 s, and 4 x 0.5 s / 2 s.
    assert table["held_cores"].tolist() == [4.0, 1.0]


def test_a_run_without_blocks_holds_no_core() -> None:
    assert binned([], 1.0, 2)["held_cores"].tolist() == [0.0, 0.0]


def test_conflicts_of_a_run_are_those_of_its_records() -> None:
    scenario, config = scenario_of(), make_config()
    makers = {name: policy_maker(config, name) for name in ("FcfsMin", "Planaria")}
    table = conflict_table(scenario, makers, SETTINGS, 200.0, 1, 10)
    assert table["policy"].tolist() == ["FcfsMin"] * 10 + ["Planaria"] * 10
    # Whole models: every query starts once, but what arrives last may start after the last bin.
    arrivals = len(scenario_arrivals(scenario, SETTINGS, 200.0, 1))
    assert arrivals - 4 <= table.loc[table["policy"] == "FcfsMin", "starts"].sum() <= arrivals
    assert (table["held_cores"] <= table["cores"] + 1e-9).all()


def test_a_layer_needs_the_fewest_cores_within_its_budget() -> None:
    # `large`: 2, 4 and 6 ms of work, equal MACs, so a third of 6 ms each: 1, 2 and 3 cores.
    table = core_need_table(scenario_of(0.006), [0.0])
    large = table[table["model"] == "large"]
    assert large["needed_cores"].tolist() == [1, 2, 3]
    assert large["budget_s"].tolist() == pytest.approx([0.002] * 3)
    assert large["average_cores"].tolist() == [2.0] * 3
    assert large["met"].all()


def test_a_layer_that_no_count_brings_within_its_budget_says_so() -> None:
    table = core_need_table(scenario_of(0.003), [0.0])
    assert table.loc[table["model"] == "large", "met"].tolist() == [True, True, False]


def test_pressure_slows_the_local_version_and_leaves_the_tolerant_one() -> None:
    table = slowdown_table(make_tables(slowdown=0.5), [0.0, 1.0])
    pressed = table[(table["model"] == "small") & (table["cores"] == 1) & (table["level"] == 1.0)]
    assert (pressed["latency_s"] / pressed["alone_s"]).tolist() == pytest.approx([1.5, 1.0])
    assert (pressed["alone_s"] / pressed["best_alone_s"]).tolist() == pytest.approx([1.0, 1.2])
    assert set(table["kind"]) == {"measured"}


def test_a_level_that_was_not_profiled_is_an_error_that_names_those_that_were() -> None:
    with pytest.raises(ValueError, match=r"level 0.3 was not profiled .*\[0.0, 0.5, 1.0\]"):
        slowdown_table(make_tables(), [0.3])
