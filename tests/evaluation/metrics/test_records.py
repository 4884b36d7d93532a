import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veltair.evaluation.loadgen.logs import MIXED, LoadGenError, LoadGenResult
from veltair.evaluation.measurement.write_run import write_run
from veltair.evaluation.metrics.records import DTYPES, Run, read_records, to_frame, to_records, write_records
from veltair.serving.loop.query import Ending, Query, QueryRecord


class Instant(float):
    """A time that one can watch: it lives as long as its record, whose tuple cannot be watched."""


RUN = Run("simulator", "bench", False, "mix", "Planaria", 12.5, 7)
seconds = st.floats(0, 1e6)


@st.composite
def record_lists(draw: st.DrawFn) -> list[QueryRecord]:
    ids = draw(st.lists(st.integers(0, 2**40), unique=True, max_size=8))
    return [
        QueryRecord(
            Query(
                index, draw(st.sampled_from(["resnet50", "bert"])), draw(seconds), draw(st.floats(1e-6, 10))
            ),
            draw(st.sampled_from(Ending)),
            draw(seconds),
            draw(seconds),
            draw(st.integers(0, 100)),
            draw(st.integers(0, 100)),
            draw(seconds),
            draw(st.text(alphabet="ab é,\n", max_size=8)),
        )
        for index in sorted(ids)
    ]


def record(query_id: int, arrival_s: float = 0.0, end_s: float = 1.0) -> QueryRecord:
    query = Query(query_id, "resnet50", arrival_s, 0.5)
    return QueryRecord(query, Ending.SERVED, arrival_s, end_s, 2, 1, 3.0)


@settings(max_examples=50, deadline=None)
@given(record_lists())
def test_records_survive_the_table(records: list[QueryRecord]) -> None:
    assert to_records(to_frame(records, RUN)) == records


@settings(max_examples=20, deadline=None)
@given(records=record_lists())
def test_records_survive_the_file(
    records: list[QueryRecord], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("records") / "queries.parquet"
    frame = to_frame(records, RUN)
    write_records(frame, path)
    pd.testing.assert_frame_equal(read_records(path), frame)


def test_the_table_has_the_documented_columns_and_types_even_when_it_is_empty() -> None:
    frame = to_frame([], RUN)
    assert list(frame.columns) == list(DTYPES)
    assert frame.dtypes.astype(str).to_dict() == DTYPES


def test_latency_and_on_time_stand_beside_what_they_come_from() -> None:
    frame = to_frame([record(0, arrival_s=1.0, end_s=1.4), record(1, arrival_s=1.0, end_s=1.6)], RUN)
    assert frame["latency_s"].tolist() == pytest.approx([0.4, 0.6])
    assert frame["on_time"].tolist() == [True, False]


def test_a_query_that_arrives_in_the_warm_up_is_kept_but_not_counted() -> None:
    frame = to_frame([record(0, arrival_s=0.9), record(1, arrival_s=1.0)], RUN, count_from_s=1.0)
    assert frame["counted"].tolist() == [False, True]


def test_rows_are_ordered_by_query_whatever_ended_first() -> None:
    assert to_frame([record(3), record(1), record(2)], RUN)["query_id"].tolist() == [1, 2, 3]


def test_each_row_names_its_run() -> None:
    row = to_frame([record(0)], RUN).iloc[0]
    assert (row["backend"], row["machine"], row["validated"], row["workload"]) == (
        "simulator",
        "bench",
        False,
        "mix",
    )
    assert (row["policy"], row["qps"], row["seed"]) == ("Planaria", 12.5, 7)


def test_a_query_that_ended_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"queries \[4\] of Planaria have two records"):
        to_frame([record(4), record(4)], RUN)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 24])
def test_chunks_of_records_make_the_table_that_all_of_them_at_once_make(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    models = ("resnet50", "bert", "bert")
    records = [
        QueryRecord(
            Query(index, models[index % 3], 0.1 * index, 0.5),
            tuple(Ending)[index % 2],
            0.1 * index,
            1.0,
            index,
            0,
            0.5,
            f"reason {index % 4}",
        )
        for index in reversed(range(count))
    ]
    whole = to_frame(records, RUN, count_from_s=0.3)
    monkeypatch.setattr("veltair.evaluation.metrics.records.CHUNK", 8)
    pd.testing.assert_frame_equal(to_frame(iter(records), RUN, count_from_s=0.3), whole)
    assert to_records(whole) == records[::-1]


def test_no_more_than_two_chunks_of_records_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veltair.evaluation.metrics.records.CHUNK", 4)
    alive: list[weakref.ref[Instant]] = []

    def records() -> Iterator[QueryRecord]:
        for number in range(40):
            assert sum(reference() is not None for reference in alive) <= 9
            end_s = Instant(1.0)
            alive.append(weakref.ref(end_s))
            yield QueryRecord(Query(number, "bert", 0.0, 1.0), Ending.SERVED, 0.0, end_s, 1, 0, 1.0)
            del end_s

    assert len(to_frame(records(), RUN)) == 40


def test_the_records_of_several_runs_are_not_mixed() -> None:
    other = Run("simulator", "bench", False, "mix", "LayerWise", 12.5, 7)
    both = pd.concat([to_frame([record(0)], RUN), to_frame([record(0)], other)])
    with pytest.raises(ValueError, match="several runs"):
        to_records(both)


def test_a_table_that_lacks_a_column_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "queries.parquet"
    with pytest.raises(ValueError, match="core_s"):
        write_records(to_frame([record(0)], RUN).drop(columns="core_s"), path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queries.parquet"
    write_records(to_frame([record(0)], RUN), path)

    def full_disk(target: Path, _content: bytes) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("veltair.provenance._write_through", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_records(to_frame([record(1)], RUN), path)
    assert list(tmp_path.iterdir()) == [path]
    assert read_records(path)["query_id"].tolist() == [0]


def test_a_run_at_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="qps is 0"):
        Run("simulator", "bench", False, "mix", "Planaria", 0, 7)


# One query of 400 ms and one of 600 ms, over a target of 500 ms.
SERVED = [record(0, arrival_s=1.0, end_s=1.4), record(1, arrival_s=1.0, end_s=1.6)]
VERDICT = LoadGenResult(False, "", 2, 1, 500_000_000, 500_000_000, 600_000_000)


@pytest.mark.parametrize("tenant", ["resnet50", MIXED])
def test_a_runs_records_that_add_up_to_loadgens_log_are_written(tmp_path: Path, tenant: str) -> None:
    frame = to_frame(SERVED, RUN)
    write_run(frame, {tenant: VERDICT}, tmp_path / "queries.parquet")
    pd.testing.assert_frame_equal(read_records(tmp_path / "queries.parquet"), frame)


@pytest.mark.parametrize("tenant", ["resnet50", MIXED])
def test_a_runs_records_that_do_not_are_not_written_and_the_quantity_is_named(
    tmp_path: Path, tenant: str
) -> None:
    path = tmp_path / "queries.parquet"
    other = replace(VERDICT, p95_latency_ns=1)
    with pytest.raises(LoadGenError, match="the p95 latency in ns is 600000000, but 1 in LoadGen's"):
        write_run(to_frame(SERVED, RUN), {tenant: other}, path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_leaves_the_file_of_the_last_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "queries.parquet"
    write_run(to_frame(SERVED, RUN), {MIXED: VERDICT}, path)
    before = path.read_bytes()
    with pytest.raises(LoadGenError, match="the number of queries is 1, but 2"):
        write_run(to_frame(SERVED[:1], RUN), {MIXED: VERDICT}, path)
    assert path.read_bytes() == before


def test_a_tenant_that_loadgen_did_not_judge_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no verdict on resnet50"):
        write_run(to_frame(SERVED, RUN), {"bert": VERDICT}, tmp_path / "queries.parquet")


def test_two_runs_are_not_written_as_one(tmp_path: Path) -> None:
    frame = pd.concat([to_frame(SERVED[:1], RUN), to_frame(SERVED[1:], replace(RUN, qps=1.0))])
    with pytest.raises(ValueError, match="several runs"):
        write_run(frame, {MIXED: VERDICT}, tmp_path / "queries.parquet")
