"""Readings of a paper, on a made-up machine."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.table_builders import config_values, make_config, write_made_up_tables
from veltair.config import Config, ConfigError, parse
from veltair.evaluation.experiment.scenario import scenario_of
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.simulation import readings as readings_module
from veltair.evaluation.simulation.readings import (
    check_readings,
    equal_options,
    gather_readings,
    readings,
    write_readings,
)
from veltair.evaluation.simulation.run import find_pooled_capacity
from veltair.evaluation.simulation.steps import simulated_search, simulation_settings
from veltair.machine.costs.folder import read_tables
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.presets import make_policy

FULL = "veltair.serving.policies.adaptive:VeltairFULL"
POLICIES = {
    "Veltair-FULL": {"path": FULL},
    "Planaria": {"path": "baselines.planaria:Planaria"},
}
OPTIONS = {"alpha": [1.0, 0.5], "drop_late": ["never", "when_doomed"], "growth": [False, True]}


def config_of(**options: Any) -> Config:
    return make_config(policies=POLICIES, readings={"options": options or OPTIONS})


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_up_tables(tmp_path_factory.mktemp("tables"), slowdown=0.5, traffic=1e6)


@pytest.fixture(scope="module")
def table(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder, config = tmp_path_factory.mktemp("readings"), config_of()
    cells = [folder / f"{index}.csv" for index in range(len(equal_options(config)))]
    for index, path in enumerate(cells):
        write_readings(config, tables, "mix", index, path)
    gather_readings(cells, folder / "readings.csv")
    return read_csv(folder / "readings.csv")


def test_readings_are_all_combinations_and_the_first_has_the_first_values() -> None:
    found = readings(config_of())
    assert len(found) == 2 * 2 * 2
    assert found[0] == {"alpha": 1.0, "drop_late": "never", "growth": False}
    assert readings(make_config(policies=POLICIES)) == []


def test_what_both_policies_have_is_made_equal_once_for_each_combination() -> None:
    assert equal_options(config_of()) == [{"drop_late": "never"}, {"drop_late": "when_doomed"}]
    assert equal_options(config_of(alpha=[1.0, 0.5])) == [{}]


def test_each_reading_has_a_row_and_one_of_them_is_the_papers(table: pd.DataFrame) -> None:
    assert len(table) == 8
    paper = table[table["is_paper"]]
    assert paper[["alpha", "drop_late", "growth"]].values.tolist() == [[1.0, "never", False]]


def test_both_sides_of_a_ratio_have_the_same_rules(tables: Path, table: pd.DataFrame) -> None:
    config = config_of()
    scenario = scenario_of(config, read_tables(tables), "mix")

    def qps(policy: str, **options: Any) -> float:
        path = POLICIES[policy]["path"]
        found = find_pooled_capacity(
            scenario,
            lambda context: make_policy(path, context, "paper", options),
            simulation_settings(config),
            simulated_search(config),
            config.simulated.seeds[0],
        )
        return found.qps

    chosen = table[(table["alpha"] == 0.5) & (table["drop_late"] == "when_doomed") & table["growth"]]
    row = chosen.iloc[0]
    assert row["qps"] == qps("Veltair-FULL", alpha=0.5, drop_late="when_doomed", growth=True)
    assert row["against_qps"] == qps("Planaria", drop_late="when_doomed")


def test_the_other_policy_has_the_options_that_both_have_and_no_others(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, dict[str, Any]]] = []

    def noting(path: str, context: Context, preset: str, options: dict[str, Any]) -> Policy:
        made.append((path, options))
        return make_policy(path, context, preset, options)

    monkeypatch.setattr(readings_module, "make_policy", noting)
    write_readings(config_of(), tables, "mix", 1, tmp_path / "1.csv")
    others = [options for path, options in made if path == POLICIES["Planaria"]["path"]]
    assert others and all(options == {"drop_late": "when_doomed"} for options in others)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alfa": [1.0]}, "readings.options.alfa: 1.0: .* takes no option alfa"),
        ({"alpha": [1.0, 2.0]}, "readings.options.alpha: 2.0: .* less than or equal to 1"),
        ({"conflict": ["fight"]}, "readings.options.conflict: 'fight': .*shrink_one_layer"),
    ],
)
def test_an_option_or_a_value_that_a_policy_does_not_take_is_named(options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_readings(config_of(**options))


def test_good_options_pass_the_check() -> None:
    check_readings(config_of())


@pytest.mark.parametrize(
    ("readings_keys", "said"),
    [
        ({"against": "Nobody"}, "readings.against: 'Nobody' is not in `policies`"),
        ({"policy": "Nobody"}, "readings.policy: 'Nobody' is not in `policies`"),
        ({"options": {"alpha": [1.0, 1.0]}}, "readings.options.alpha: 1.0 is listed 2 times"),
    ],
)
def test_a_policy_that_is_not_there_and_a_value_given_twice_are_errors(readings_keys: Any, said: str) -> None:
    asked = {"options": OPTIONS, **readings_keys}
    with pytest.raises(ConfigError, match=said):
        parse(config_values(policies=POLICIES, readings=asked))
