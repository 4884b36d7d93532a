import dataclasses
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veltair.evaluation.metrics.metrics import RATE_COLUMNS, TENANT_COLUMNS, rates, tenant_rates
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.evaluation.metrics.targets import TARGET_COLUMNS
from veltair.serving.loop.query import Ending, Query, QueryRecord

RUN = Run("simulator", "bench", False, "mix", "Planaria", 4.0, 7)
TARGETS = pd.DataFrame(
    [
        ("bench", "light", 1.0, 0.25, 1.0, False, 0.5),
        ("bench", "heavy", 1.0, 1.0, 2.3, True, 3.0),
    ],
    columns=list(TARGET_COLUMNS),
)
QOS_S = {"light": 1.0, "heavy": 2.3}


def record(
    query_id: int,
    model: str,
    arrival_s: float,
    latency_s: float,
    ending: Ending = Ending.SERVED,
    **use: float,
) -> QueryRecord:
    used = {"blocks": 2, "conflicts": 0, "core_s": 1.0} | use
    query = Query(query_id, model, arrival_s, QOS_S[model])
    return QueryRecord(query, ending, arrival_s, arrival_s + latency_s, **used)


# Two cores, from 0 s to 7 s (the end of the last query): 14 core-seconds. The query at 0 s is warm-up.
RECORDS = [
    record(0, "light", 0.0, 0.5, core_s=2.0),
    record(1, "light", 1.0, 0.5, conflicts=1),  # on time
    record(2, "light", 2.0, 1.5),  # late
    record(3, "light", 3.0, 0.125, Ending.REJECTED, blocks=0, core_s=0.0),  # quick to refuse, yet a miss
    record(4, "heavy", 3.0, 2.0, core_s=4.0, blocks=4, conflicts=1),  # on time
    record(5, "heavy", 4.0, 3.0, Ending.UNFINISHED, core_s=2.0),
]


def measured(records: list[QueryRecord], count_from_s: float = 0.0) -> dict[str, object]:
    return rates(to_frame(records, RUN, count_from_s), TARGETS, cores=2).iloc[0].to_dict()


@pytest.fixture
def row() -> dict[str, object]:
    return measured(RECORDS, count_from_s=1.0)


def test_each_run_has_one_row_with_the_documented_columns() -> None:
    other = dataclasses.replace(RUN, policy="LayerWise")
    both = pd.concat([to_frame(RECORDS, RUN), to_frame(RECORDS, other)])
    frame = rates(both, TARGETS, cores=2)
    assert tuple(frame.columns) == RATE_COLUMNS
    assert frame["policy"].tolist() == ["Planaria", "LayerWise"]
    assert frame[["qps", "seed", "validated", "models"]].iloc[0].tolist() == [4.0, 7, False, "heavy, light"]


def test_warm_up_queries_are_not_counted(row: dict[str, object]) -> None:
    counts = [row[name] for name in ("queries", "served", "on_time", "rejected", "unfinished")]
    assert counts == [5, 3, 2, 1, 1]
    assert row["window_s"] == 3.0


def test_rejected_late_and_unfinished_queries_are_misses(row: dict[str, object]) -> None:
    assert row["satisfaction"] == pytest.approx(2 / 5)


def test_the_worst_tenant_is_named_with_its_satisfaction(row: dict[str, object]) -> None:
    assert (row["worst_tenant"], row["satisfaction_minimum"]) == ("light", pytest.approx(1 / 3))


def test_average_latency_leaves_rejections_out_and_counts_unfinished_queries_until_the_end(
    row: dict[str, object],
) -> None:
    assert row["latency_mean_s"] == pytest.approx((0.5 + 1.5 + 2.0 + 3.0) / 4)


def test_percentiles_are_latencies_that_queries_had() -> None:
    spread = measured([record(index, "light", 0.0, (index + 1) / 100) for index in range(100)])
    found = [spread[name] for name in ("latency_p50_s", "latency_p95_s", "latency_p99_s")]
    assert found == pytest.approx([0.50, 0.95, 0.99])


def test_core_time_of_every_counted_query_is_charged_to_the_on_time_ones(row: dict[str, object]) -> None:
    assert row["core_s_per_on_time"] == pytest.approx((1 + 1 + 0 + 4 + 2) / 2)


def test_cpu_efficiency_is_the_least_work_of_on_time_queries_over_core_time_held(
    row: dict[str, object],
) -> None:
    assert row["cpu_efficiency"] == pytest.approx((0.5 + 3.0) / 8)


def test_core_use_is_all_held_core_time_over_that_of_the_machine(row: dict[str, object]) -> None:
    assert row["core_use"] == pytest.approx((2 + 8) / (2 * 7))


def test_held_but_idle_time_is_not_a_number_until_a_backend_measures_it(row: dict[str, object]) -> None:
    assert math.isnan(row["held_idle_share"])


def test_conflict_rate_is_the_share_of_block_starts_with_too_few_cores(row: dict[str, object]) -> None:
    assert row["conflict_rate"] == pytest.approx(2 / (2 + 2 + 0 + 4 + 2))


def test_turnaround_and_throughput_treat_each_tenant_as_one_programme(row: dict[str, object]) -> None:
    # light: mean of 0.5 and 1.5 s over 0.25 s alone = 4; heavy: mean of 2 and 3 s over 1 s = 2.5.
    assert row["antt"] == pytest.approx((4 + 2.5) / 2)
    assert row["stp"] == pytest.approx(1 / 4 + 1 / 2.5)


def test_jains_index_is_taken_over_the_satisfaction_of_the_tenants(row: dict[str, object]) -> None:
    # (1/3 + 1/2)^2 / (2 (1/9 + 1/4)) = (25/36) / (26/36)
    assert row["jain"] == pytest.approx(25 / 26)


def two_tenants_of_one_model() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return records of two tenants, both asking for `light`, and their targets: 1 s and 2 s."""
    sent = [("shop", 1.0, 0.5), ("shop", 1.0, 0.5), ("batch", 2.0, 1.5), ("batch", 2.0, 2.5)]
    records = [
        QueryRecord(
            Query(index, "light", 1.0 * index, qos_s, tenant), Ending.SERVED, at, at + latency_s, 1, 0, 1.0
        )
        for index, (tenant, qos_s, latency_s) in enumerate(sent)
        for at in [1.0 * index]
    ]
    rows = [
        ("bench", "light", 1.0, 0.25, 1.0, False, 0.5, "shop"),
        ("bench", "light", 2.0, 0.25, 2.0, False, 0.4, "batch"),
    ]
    return to_frame(records, RUN), pd.DataFrame(rows, columns=[*TARGET_COLUMNS, "tenant"])


def test_several_tenants_of_a_model_are_each_held_to_their_own_target() -> None:
    frame = tenant_rates(*two_tenants_of_one_model()).set_index("tenant")
    assert frame["model"].tolist() == ["light", "light"]
    assert frame["satisfaction"].to_dict() == {"shop": 1.0, "batch": 0.5}
    assert frame["turnaround"].to_dict() == {"shop": 2.0, "batch": 8.0}


def test_fairness_is_taken_over_the_tenants_and_work_counts_by_their_targets() -> None:
    row = rates(*two_tenants_of_one_model(), cores=2).iloc[0]
    assert (row["worst_tenant"], row["satisfaction_minimum"]) == ("batch", 0.5)
    assert (row["antt"], row["stp"]) == (5.0, 1 / 2 + 1 / 8)
    assert row["jain"] == pytest.approx(0.9)
    # Two on time of 0.5 core-s of least work, one of 0.4, over 4 core-s held.
    assert row["cpu_efficiency"] == pytest.approx(1.4 / 4)


def test_a_tenant_without_a_target_is_refused_by_name() -> None:
    records, targets = two_tenants_of_one_model()
    with pytest.raises(LookupError, match=r"tenants \['batch'\] have records but no targets"):
        rates(records, targets[:1], cores=2)


def test_each_model_has_its_own_row() -> None:
    frame = tenant_rates(to_frame(RECORDS, RUN, 1.0), TARGETS)
    assert tuple(frame.columns) == TENANT_COLUMNS
    light = frame.set_index("model").loc["light"]
    assert light[["queries", "on_time", "rejected", "unfinished"]].tolist() == [3, 1, 1, 0]
    assert (light["satisfaction"], light["turnaround"]) == (pytest.approx(1 / 3), 4)
    assert frame.set_index("model").loc["heavy", "relaxed"]


@pytest.mark.filterwarnings("error")
def test_a_run_without_an_on_time_query_has_no_cost_per_query_and_no_efficiency() -> None:
    row = measured([record(0, "light", 0.0, 5.0)])
    assert (row["satisfaction"], row["cpu_efficiency"]) == (0, 0)
    assert math.isnan(row["core_s_per_on_time"]) and math.isnan(row["jain"])


@pytest.mark.filterwarnings("error")
def test_a_run_that_rejects_everything_has_neither_latency_nor_conflicts() -> None:
    row = measured([record(0, "light", 0.0, 0.0, Ending.REJECTED, blocks=0, core_s=0.0)])
    assert row["satisfaction"] == 0 and row["stp"] == 0
    for name in ("latency_mean_s", "latency_p99_s", "conflict_rate", "cpu_efficiency", "core_use", "antt"):
        assert math.isnan(row[name]), name


@pytest.mark.filterwarnings("error")
def test_a_run_that_counts_no_query_has_no_satisfaction() -> None:
    row = measured(RECORDS, count_from_s=100.0)
    assert row["queries"] == 0 and row["worst_tenant"] == ""
    assert math.isnan(row["satisfaction"]) and math.isnan(row["satisfaction_minimum"])


def test_no_records_give_an_empty_table_with_all_columns() -> None:
    assert tuple(rates(to_frame([], RUN), TARGETS, cores=2).columns) == RATE_COLUMNS


def test_records_of_another_machine_are_refused() -> None:
    with pytest.raises(ValueError, match=r"machines \['bench', 'other'\]"):
        rates(to_frame(RECORDS, RUN), TARGETS.assign(machine="other"), cores=2)


def test_records_held_to_another_qos_are_refused() -> None:
    with pytest.raises(ValueError, match=r"held to 1\.0 s, the targets say 2\.0 s"):
        rates(to_frame(RECORDS, RUN), TARGETS.assign(qos_s=[2.0, 2.3]), cores=2)


def test_a_model_without_a_target_is_refused_by_name() -> None:
    with pytest.raises(LookupError, match="heavy"):
        rates(to_frame(RECORDS, RUN), TARGETS[:1], cores=2)


def test_a_table_that_lacks_a_column_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="core_s"):
        rates(to_frame(RECORDS, RUN).drop(columns="core_s"), TARGETS, cores=2)


@st.composite
def runs(draw: st.DrawFn) -> list[QueryRecord]:
    count = draw(st.integers(1, 12))
    records = []
    for query_id in range(count):
        blocks = draw(st.integers(1, 5))
        records.append(
            record(
                query_id,
                draw(st.sampled_from(["light", "heavy"])),
                draw(st.floats(0, 10)),
                draw(st.floats(0.001, 10)),
                draw(st.sampled_from(Ending)),
                blocks=blocks,
                conflicts=draw(st.integers(0, blocks)),
                core_s=draw(st.floats(0, 5)),
            )
        )
    return records


@settings(max_examples=60, deadline=None)
@given(runs(), st.floats(0, 10))
def test_metrics_stay_inside_their_bounds(records: list[QueryRecord], count_from_s: float) -> None:
    row = measured(records, count_from_s)
    if row["queries"] == 0:
        return
    assert 0 <= row["satisfaction_minimum"] <= row["satisfaction"] <= 1
    assert 0 <= row["conflict_rate"] <= 1
    assert row["on_time"] + row["rejected"] + row["unfinished"] <= row["queries"]
    assert math.isnan(row["jain"]) or 0.5 - 1e-12 <= row["jain"] <= 1 + 1e-12
    if row["queries"] > row["rejected"]:
        assert 0 < row["latency_p50_s"] <= row["latency_p95_s"] <= row["latency_p99_s"]


@settings(max_examples=30, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_the_records(
    records: list[QueryRecord], random: object
) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)
    pd.testing.assert_frame_equal(
        rates(to_frame(records, RUN), TARGETS, 2), rates(to_frame(shuffled, RUN), TARGETS, 2)
    )
