"""Two policies, two rates and two rounds of made-up queries: of which one slot is left out."""

from pathlib import Path

import pandas as pd
import pytest

from tests.support.table_builders import make_config, write_made_up_tables
from veltair.config import Config
from veltair.evaluation.experiment.layout import RECORDS, SLOTS
from veltair.evaluation.experiment.tables_io import write_csv
from veltair.evaluation.loadgen.client_runs import OWN_CLIENT
from veltair.evaluation.metrics.measured_tables import MEAN_METRICS
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.evaluation.reports.measured_steps import (
    CURVES,
    MEASURED,
    MEASURED_RATIOS,
    measured_tables,
)
from veltair.provenance import collect, write_parquet
from veltair.serving.loop.query import Ending, Query, QueryRecord

POLICIES = ("FcfsMin", "Planaria")  # in the order of the configuration
# Of each slot: its round, share of the sequential rate, seed, and whether it counts.
SLOTS_MADE = [(0, 0.3, 11, True), (0, 0.6, 12, True), (1, 0.3, 13, True), (1, 0.6, 14, False)]
QUERIES = 20


def records_of(policy: str, share: float, seed: int) -> pd.DataFrame:
    """Return queries of which Planaria serves all on time, and the other policy half."""
    late = {"Planaria": 0, "FcfsMin": QUERIES // 2}[policy]
    records = [
        QueryRecord(
            Query(number, "small", 0.1 * number, 0.01),
            Ending.SERVED,
            0.1 * number,
            0.1 * number + (0.02 if number < late else 0.005),
            1,
            0,
            0.001,
        )
        for number in range(QUERIES)
    ]
    return to_frame(records, Run("engine", "box", True, "mix", policy, 100 * share, seed))


@pytest.fixture(scope="module")
def config() -> Config:
    return make_config()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a measured workload, its policies measured in another order."""
    folder = tmp_path_factory.mktemp("measured")
    frames = [
        records_of(policy, share, seed)
        for policy in reversed(POLICIES)
        for _, share, seed, kept in SLOTS_MADE
        if kept
    ]
    write_parquet(folder / RECORDS, pd.concat(frames, ignore_index=True), collect())
    rows = [
        {"workload": "mix", "policy": policy, "round": number, "share": share, "qps": 100 * share}
        | {"seed": seed, "attempt": 0, "kept": kept, "problem": "" if kept else "late", "others_share": 0.0}
        | {"client": OWN_CLIENT}
        for number, share, seed, kept in SLOTS_MADE
        for policy in reversed(POLICIES)
    ]
    write_csv(folder / SLOTS, pd.DataFrame(rows), collect())
    return folder


@pytest.fixture(scope="module")
def found(config: Config, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    tables = write_made_up_tables(tmp_path_factory.mktemp("tables"))
    keys = ["backend", "machine", "workload", "policy", "qps"]
    rates = pd.DataFrame(
        [("engine", "box", "mix", policy, 100 * share) for policy in POLICIES for share in (0.3, 0.6)],
        columns=keys,
    ).assign(**dict.fromkeys(MEAN_METRICS, 1.0), models="small")
    return measured_tables(config, tables, [run], rates)


def test_there_is_a_table_of_curves_capacities_ratios_and_slots(found: dict[str, pd.DataFrame]) -> None:
    assert list(found) == [CURVES, MEASURED, MEASURED_RATIOS, SLOTS]
    assert len(found[SLOTS]) == len(SLOTS_MADE) * len(POLICIES)


def test_curves_say_who_sent_the_queries(found: dict[str, pd.DataFrame]) -> None:
    assert set(found[CURVES]["client"]) == {OWN_CLIENT}


def test_policies_come_as_the_configuration_names_them(found: dict[str, pd.DataFrame]) -> None:
    for name in (CURVES, MEASURED):
        assert list(dict.fromkeys(found[name]["policy"])) == list(POLICIES)


def test_a_curve_counts_the_rounds_that_were_kept(found: dict[str, pd.DataFrame]) -> None:
    curves = found[CURVES].set_index(["policy", "share"])
    for policy, satisfaction in (("FcfsMin", 0.5), ("Planaria", 1.0)):
        for share, rounds in ((0.3, 2), (0.6, 1)):
            row = curves.loc[(policy, share)]
            assert (row["queries"], row["satisfaction"]) == (rounds * QUERIES, satisfaction)


def test_a_capacity_is_bounded_by_the_rates_that_were_measured(found: dict[str, pd.DataFrame]) -> None:
    at_least = found[MEASURED].set_index("policy")["at_least_qps"]
    assert at_least["Planaria"] == pytest.approx(60.0)
    assert at_least["FcfsMin"] < 30.0
