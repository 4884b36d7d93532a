import json
import math
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.interference import perf_stat
from veltair.machine.interference.perf_stat import (
    EVENT_PAIRS,
    Count,
    Intervals,
    PerfStat,
    find_events,
    parse_line,
    refusal,
)
from veltair.machine.interference.source import InterferenceUnavailableError, PressureFit
from veltair.machine.topology.topology import Machine

# Recorded; the folder's README says where and how.
RECORDED = Path(__file__).parents[2] / "data" / "perf"
MISSES, ACCESSES = EVENT_PAIRS[0]
MACHINE = Machine("made-up", 1, ((0, 1),), 2**20, 2**25, 1e11, 64e6, validated=False)


def counted(at_s: float, event: str, value: int) -> str:
    """A line with the fields that perf-stat(1) gives under JSON FORMAT; not recorded."""
    return line(at_s, event, f"{value:f}")


def line(at_s: float, event: str, counted: str) -> str:
    fields = {"interval": at_s, "counter-value": counted, "unit": "", "event": event}
    return json.dumps({**fields, "event-runtime": 200000000, "pcnt-running": 100.0})


def counts(name: str) -> list[Count]:
    lines = (RECORDED / name).read_text().splitlines()
    return [count for line in lines if (count := parse_line(line))]


def make_perf(folder: Path, lines: str, status: int = 0, stderr: str = "", lives: bool = True) -> str:
    """A program that writes what perf would, ends at once when only tried, and else goes on or not."""
    (folder / "lines").write_text(lines)
    (folder / "stderr").write_text(stderr)
    program = folder / "perf"
    program.write_text(
        f"#!/bin/sh\ncat {folder}/lines\ncat {folder}/stderr >&2\n"
        f'case "$*" in *"-- true") exit {status};; esac\n' + ("exec sleep 1000\n" if lives else "exit 3\n")
    )
    program.chmod(0o755)
    return str(program)


# In 0.5 s 250 000 misses, 500 000 accesses of 64 bytes: 32 and 64 MB/s, of 64 MB/s half and all.
HALF = counted(0.5, MISSES, 250_000) + "\n" + counted(0.5, ACCESSES, 500_000) + "\n"


def test_a_recorded_count_gives_its_time_event_and_value() -> None:
    assert counts("software.jsonl")[:3] == [
        Count(0.100158047, "context-switches", 973.0, ""),
        Count(0.100158047, "page-faults", 3797.0, ""),
        Count(0.100158047, "task-clock", 200.56817, ""),
    ]


def test_a_recorded_event_without_support_has_a_reason_and_no_value() -> None:
    assert {(count.event, count.value, count.problem) for count in counts("unsupported.jsonl")} == {
        (MISSES, None, "<not supported>"),
        (ACCESSES, None, "<not supported>"),
    }


def test_the_modifier_that_perf_adds_for_an_unprivileged_user_is_left_out() -> None:
    assert "LLC-loads:u" in (RECORDED / "unsupported_as_user.jsonl").read_text()
    assert [count.event for count in counts("unsupported_as_user.jsonl")] == [MISSES, ACCESSES]


def test_an_event_of_a_named_unit_keeps_its_commas() -> None:
    assert parse_line(counted(0.1, "amd_l3/event=0x04,umask=0x01/", 7)) == Count(
        0.1, "amd_l3/event=0x04,umask=0x01/", 7.0, ""
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# started on Sat Nov 21",
        "7",
        "[]",
        '{"interval" : 0.1, "metric-value" : "12.5", "metric-unit" : "of all LL-cache accesses"}',
        '{"counter-value" : "7.000000", "event" : "LLC-loads"}',
        '{"interval" : 0.1, "counter-value" : 7, "event" : "LLC-loads"}',
        '{"interval" : 0.1, "counter-value" : "x", "event" : "LLC-loads"}',
        '{"interval" : 0.1, "counter-value" : "7.0", "event" : "LLC-lo',
    ],
)
def test_what_is_no_count_is_passed_over(text: str) -> None:
    assert parse_line(text) is None


VALUES = st.sampled_from([None, 0.1, 7, math.nan, "", "7", "nan", "1e999", "<not counted>", "x:u", [], {}])


@given(
    st.text()
    | st.dictionaries(st.sampled_from(["interval", "counter-value", "event"]), VALUES).map(json.dumps)
)
def test_no_line_breaks_the_parser(text: str) -> None:
    count = parse_line(text)
    assert count is None or (count.value is None) == bool(count.problem)
    assert count is None or math.isfinite(count.at_s + (count.value or 0.0))


def test_rates_are_per_second_of_each_interval() -> None:
    intervals = Intervals({"context-switches": {""}, "page-faults": {""}})
    rates = [found for count in counts("software.jsonl") if (found := intervals.feed(count))]
    assert len(rates) == 4
    assert rates[0] == pytest.approx((973 / 0.100158047, 3797 / 0.100158047))
    # The second interval began when the first one ended.
    assert rates[1] == pytest.approx((3501 / (0.200498386 - 0.100158047), 5240 / (0.200498386 - 0.100158047)))


def test_an_interval_in_which_nothing_was_counted_gives_nothing_but_has_passed() -> None:
    intervals = Intervals({"context-switches": {""}, "page-faults": {""}})
    found = [intervals.feed(count) for count in counts("not_counted.jsonl")]
    assert [index for index, rates in enumerate(found) if rates] == [1, 7]
    assert found[7] == pytest.approx((0.0, 0.0))


def test_perf_that_is_missing_is_unavailable_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(InterferenceUnavailableError, match=r"was not found on PATH; install it \(Debian"):
        find_events(str(tmp_path / "perf"))


def test_perf_that_may_not_be_run_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "perf").write_text("")
    with pytest.raises(InterferenceUnavailableError, match="may not be run: Permission denied"):
        find_events(str(tmp_path / "perf"))


def test_a_recorded_refusal_names_the_setting_and_the_remedy(tmp_path: Path) -> None:
    said = (RECORDED / "refused.stderr.txt").read_text()
    reason = refusal(said, 255, "2")
    assert reason is not None and "perf_event_paranoid is 2); set it to 0" in reason
    with pytest.raises(InterferenceUnavailableError, match="may not count the whole machine"):
        find_events(make_perf(tmp_path, "", status=255, stderr=said))


def test_a_perf_that_fails_otherwise_is_quoted() -> None:
    assert "failed (exit status 1) and said: out of luck" in str(refusal("out of\nluck", 1, "0"))


def test_a_perf_without_json_says_what_to_install() -> None:
    # The words of perf 6.1 for an option that it lacks.
    reason = refusal("  Error: unknown switch `j'\n\n Usage: perf stat [<options>] [<command>]", 129, "0")
    assert reason is not None and "install the perf of a newer kernel" in reason


def test_an_event_that_perf_does_not_know_is_no_refusal() -> None:
    assert refusal((RECORDED / "unknown_event.stderr.txt").read_text(), 129, "2") is None
    assert refusal("", 0, "2") is None


def test_a_machine_without_counters_is_unavailable_and_told_event_by_event(tmp_path: Path) -> None:
    program = make_perf(tmp_path, (RECORDED / "unsupported.jsonl").read_text())
    with pytest.raises(
        InterferenceUnavailableError, match=r"no counters .* \(LLC-load-misses is <not support"
    ):
        find_events(program)


def test_events_of_other_processors_are_tried_in_order(tmp_path: Path) -> None:
    lines = (RECORDED / "unsupported.jsonl").read_text()
    lines += "".join(counted(0.1, event, 5) + "\n" for event in EVENT_PAIRS[2])
    assert tuple(find_events(make_perf(tmp_path, lines))) == EVENT_PAIRS[2]


@pytest.fixture
def half(tmp_path: Path) -> Iterator[PerfStat]:
    source = PerfStat(MACHINE, program=make_perf(tmp_path, HALF))
    source.start()
    yield source
    source.stop()


def test_pressure_is_the_traffic_of_misses_over_the_bandwidth(half: PerfStat) -> None:
    assert half.reading() == pytest.approx((0.5, 1.0))
    assert half.pressure() == pytest.approx(0.5)


def test_more_traffic_than_bandwidth_is_full_pressure(tmp_path: Path) -> None:
    slow = Machine("made-up", 1, ((0, 1),), 2**20, 2**25, 1e11, 1e6, validated=False)
    source = PerfStat(slow, program=make_perf(tmp_path, HALF))
    source.start()
    try:
        assert source.reading()[0] == pytest.approx(32.0)
        assert source.pressure() == 1.0
    finally:
        source.stop()


def test_the_fit_maps_both_features(tmp_path: Path) -> None:
    fit = PressureFit("perf", PerfStat.features, (0.4, 0.2), 0.1, 0.9, 0.1)
    source = PerfStat(MACHINE, fit=fit, program=make_perf(tmp_path, HALF))
    source.start()
    try:
        assert source.pressure() == pytest.approx(0.1 + 0.4 * 0.5 + 0.2 * 1.0)
    finally:
        source.stop()


def test_stopping_ends_perf_and_twice_is_harmless(half: PerfStat) -> None:
    process = half._process
    assert process is not None
    half.stop()
    half.stop()
    assert process.returncode is not None
    with pytest.raises(RuntimeError, match="start the source"):
        half.pressure()


def test_perf_that_ends_by_itself_makes_pressure_an_error(tmp_path: Path) -> None:
    source = PerfStat(MACHINE, program=make_perf(tmp_path, HALF, lives=False))
    source.start()
    assert source._thread is not None
    source._thread.join()
    with pytest.raises(RuntimeError, match=r"ended by itself \(exit status 3\), so pressure is not known"):
        source.pressure()
    source.stop()


def test_perf_that_ends_before_its_first_interval_is_unavailable(tmp_path: Path) -> None:
    program = make_perf(tmp_path, HALF, lives=False)
    text = (
        Path(program).read_text().replace(f"cat {tmp_path}/lines\n", 'case "$*" in *true) cat lines;; esac\n')
    )
    Path(program).write_text(text.replace("cat lines", f"cat {tmp_path}/lines"))
    with pytest.raises(InterferenceUnavailableError, match="perf gave no reading: perf ended by itself"):
        PerfStat(MACHINE, program=program).start()


@pytest.mark.parametrize("interval_s", [0.0, 0.0009, float("nan")])
def test_an_interval_that_perf_refuses_is_refused(interval_s: float) -> None:
    with pytest.raises(ValueError, match=r"perf takes 0[.]001 or more"):
        PerfStat(MACHINE, interval_s)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[PerfStat]:
    """The real perf, on software events, which need no counters."""
    monkeypatch.setattr(perf_stat, "EVENT_PAIRS", (("context-switches", "page-faults"),))
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed here")
    source = PerfStat(MACHINE, interval_s=0.02)
    try:
        source.start()
    except InterferenceUnavailableError as error:
        pytest.skip(str(error))
    yield source
    source.stop()


def test_the_real_perf_gives_readings(live: PerfStat) -> None:
    assert len(live.reading()) == 2


def test_the_real_perf_ends_when_nobody_reads_it_any_more(live: PerfStat) -> None:
    # What becomes of it when the process that reads is killed outright.
    command = perf_stat.stat_command("perf", perf_stat.EVENT_PAIRS[0], 0.02)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == -signal.SIGPIPE


def hybrid_lines(at_s: float, atom: str = "100000.000000") -> str:
    """What perf of a processor with two kinds of cores prints of an interval."""
    lines = [
        line(at_s, f"{unit}/{event}/", value)
        for event, core in ((MISSES, "150000.000000"), (ACCESSES, "400000.000000"))
        for unit, value in (("cpu_core", core), ("cpu_atom", atom))
    ]
    return "".join(f"{one}\n" for one in lines)


def test_the_counts_of_all_kinds_of_cores_are_one(tmp_path: Path) -> None:
    source = PerfStat(MACHINE, program=make_perf(tmp_path, hybrid_lines(0.5)))
    source.start()
    try:
        assert source.reading() == pytest.approx((0.5, 1.0))
    finally:
        source.stop()


def test_a_kind_of_core_that_lacks_an_event_is_left_out(tmp_path: Path) -> None:
    source = PerfStat(MACHINE, program=make_perf(tmp_path, hybrid_lines(0.5, "<not supported>")))
    source.start()
    try:
        assert source.reading() == pytest.approx((0.3, 0.8))
    finally:
        source.stop()


def test_an_interval_in_which_one_kind_of_core_was_not_counted_gives_nothing() -> None:
    units = dict.fromkeys((MISSES, ACCESSES), ("cpu_core", "cpu_atom"))
    intervals = Intervals(units)
    text = hybrid_lines(0.5, "<not counted>") + hybrid_lines(1.0)
    found = [intervals.feed(count) for one in text.splitlines() if (count := parse_line(one))]
    assert [rates for rates in found if rates] == [pytest.approx((500_000.0, 1_000_000.0))]


def test_an_interval_that_lacks_a_line_ends_with_the_next_one() -> None:
    intervals = Intervals({MISSES: {""}, ACCESSES: {""}})
    lines = [counted(0.5, MISSES, 1), counted(1.0, MISSES, 100), counted(1.0, ACCESSES, 200)]
    assert [intervals.feed(count) for one in lines if (count := parse_line(one))][-1] == (200.0, 400.0)


@pytest.mark.parametrize(
    ("event", "unit", "name"),
    [
        ("cpu_core/LLC-loads/", "cpu_core", "LLC-loads"),
        ("cpu_atom/LLC-loads/u", "cpu_atom", "LLC-loads"),
        ("cpu_core/LLC-loads:u/", "cpu_core", "LLC-loads"),
        ("cpu_core/event=0xd1,umask=0x20/", "", "cpu_core/event=0xd1,umask=0x20/"),
    ],
)
def test_the_name_of_an_event_loses_the_kind_of_core(event: str, unit: str, name: str) -> None:
    count = parse_line(counted(0.1, event, 7))
    assert count is not None and (count.unit, count.event) == (unit, name)


def test_counters_that_others_hold_are_told_as_that(tmp_path: Path) -> None:
    taken = "".join(line(0.1, event, "<not counted>") + "\n" for event in EVENT_PAIRS[0])
    with pytest.raises(InterferenceUnavailableError, match=r"are taken \(LLC-load-misses is <not counted>"):
        find_events(make_perf(tmp_path, taken))
