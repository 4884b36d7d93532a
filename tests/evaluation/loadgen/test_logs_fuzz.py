"""Whatever is left of a recorded run: its queries are all there and in order, or it is refused by name."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tests.support.fuzz import INPUTS, ODD_NUMBERS, cut_or_spoilt, fuzz
from veltair.evaluation.loadgen.arrivals import replay
from veltair.evaluation.loadgen.logs import LoadGenError, read_query_log, read_verdict
from veltair.serving.loop.query import Ending, Query, QueryRecord

SAMPLE = (
    '{"name":"Sample","cat":"default","ph":"b","pid":1,"tid":2,"ts":%d.%03d,"args":{"sample_seq":%d,'
    '"query_seq":%d,"sample_idx":%d,"issue_start_ns":%d,"complete_ns":%d}},\n'
)
LOG = (
    '{"traceEvents":[\n'
    + "".join(SAMPLE % (10 * n, n, n, n, n % 3, 40 + n, 900 + n) for n in range(5))
    + '{"name":"LastTrace"}\n]}\n'
).encode()
DETAIL = "".join(
    f':::MLLOG {{"key": "{key}", "value": {value}, "time_ms": 1.0}}\n'
    for key, value in {
        "result_validity": '"VALID"',
        "result_query_count": 5,
        "result_overlatency_query_count": 0,
        "effective_target_latency_ns": 1000,
        "result_mean_latency_ns": 902,
        "result_95.00_percentile_latency_ns": 904,
        "result_min_duration_met": "true",
    }.items()
).encode()


@INPUTS
def test_a_spoilt_log_of_queries_is_whole_or_refused(inputs: int, tmp_path: Path) -> None:
    def take(content: bytes) -> None:
        path = tmp_path / "log.json"
        path.write_bytes(content)
        try:
            log = read_query_log(path)
        except LoadGenError as error:
            assert str(path) in str(error)
        else:
            assert len(log) >= 1 and log.scheduled_ns[0] == 0

    fuzz(inputs, st.just(LOG) | cut_or_spoilt(LOG), take)


@INPUTS
def test_a_spoilt_verdict_is_one_or_refused(inputs: int, tmp_path: Path) -> None:
    def take(content: bytes) -> None:
        path = tmp_path / "detail.txt"
        path.write_bytes(content)
        try:
            verdict = read_verdict(path, ["net"])
        except LoadGenError as error:
            assert str(path) in str(error)
        else:
            assert verdict.valid in (True, False)

    fuzz(inputs, st.just(DETAIL) | cut_or_spoilt(DETAIL), take)


def record(number: int, arrival_s: float) -> QueryRecord:
    return QueryRecord(Query(number, "net", arrival_s, 0.01), Ending.SERVED, arrival_s, arrival_s, 1, 0, 0.0)


@INPUTS
def test_recorded_arrivals_are_replayed_in_order_from_0_or_refused(inputs: int) -> None:
    def take(recorded: list[tuple[int, float]]) -> None:
        try:
            queries = replay([record(*one) for one in recorded])
        except ValueError as error:
            assert "give " in str(error)
        else:
            arrivals = [query.arrival_s for query in queries]
            assert arrivals[0] == 0.0 and all(np.isfinite(arrivals)) and arrivals == sorted(arrivals)

    times = st.floats() | st.sampled_from([float(number) for number in ODD_NUMBERS])
    fuzz(inputs, st.lists(st.tuples(st.integers(-3, 6), times), max_size=6), take)
