"""Whatever perf writes: a line is a count or none, readings are rates of all events, a refusal is a line."""

import json
import math
from pathlib import Path

from hypothesis import strategies as st

from tests.support.fuzz import INPUTS, ODD_VALUES, cut_or_spoilt, fuzz
from veltair.machine.interference.perf_stat import EVENT_PAIRS, Intervals, parse_line, refusal

RECORDED = Path(__file__).parents[2] / "data" / "perf"
EVENTS = [
    *EVENT_PAIRS[0],
    "cpu_core/LLC-loads/",
    "cpu_atom/LLC-load-misses/u",
    "LLC-loads:u",
    "cycles",
    "//",
    "",
]
COUNTS = st.sampled_from(
    ["<not counted>", "<not supported>", "<", "12.000000", "-5", "1,5", "1e999", "nan", ""]
)
TIMES = st.sampled_from([0.1, 0.2, 0.2000001, 0.0, -1.0]) | st.floats()
LINES = st.fixed_dictionaries(
    {},
    optional={
        "interval": TIMES | ODD_VALUES,
        "event": st.sampled_from(EVENTS) | ODD_VALUES,
        "counter-value": COUNTS | ODD_VALUES,
    },
).map(json.dumps)
WHOLE = b"".join(path.read_bytes() for path in sorted(RECORDED.glob("*.jsonl")))


def take(lines: list[str]) -> None:
    for units in ({""}, {"cpu_core", "cpu_atom"}):
        intervals = Intervals(dict.fromkeys(EVENT_PAIRS[0], units))
        for line in lines:
            count = parse_line(line)
            if count is None:
                continue
            assert (count.value is None) == bool(count.problem)
            rates = intervals.feed(count)
            assert rates is None or (
                len(rates) == 2 and all(rate >= 0 and math.isfinite(rate) for rate in rates)
            )


@INPUTS
def test_lines_of_any_fields_are_counts_or_passed_over(inputs: int) -> None:
    fuzz(inputs, st.lists(LINES | st.text(max_size=20), max_size=12), take)


@INPUTS
def test_a_spoilt_stream_is_read_as_far_as_it_goes(inputs: int) -> None:
    streams = cut_or_spoilt(WHOLE).map(lambda text: text.decode(errors="replace").splitlines())
    fuzz(inputs, streams, take)


@INPUTS
def test_a_complaint_is_quoted_in_one_line(inputs: int) -> None:
    def quote(said: tuple[str, int, str]) -> None:
        reason = refusal(*said)
        assert reason is None or (reason and "\n" not in reason and len(reason) < 600)

    complaints = st.text(max_size=400) | cut_or_spoilt((RECORDED / "refused.stderr.txt").read_bytes()).map(
        lambda text: text.decode(errors="replace")
    )
    fuzz(inputs, st.tuples(complaints, st.integers(-20, 255), st.sampled_from(["", "4"])), quote)
