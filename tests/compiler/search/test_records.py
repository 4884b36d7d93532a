import gzip
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.search.records import (
    EXHAUSTED,
    FAILED,
    Batch,
    EarlyEnd,
    Header,
    Record,
    RecordFile,
    SearchTrial,
    pack,
    parse,
    read_record,
    seconds_per_trial,
    unpack,
)

HEADER = Header("conv2d-1", target="x86-64-v3", cores=64, threads=1, seed=1, repeats=10)


def trial(number: int) -> SearchTrial:
    trace = [[["GetSBlock", [], [f"block{number}", "main"], ["b0"]]], []]
    return SearchTrial(trace, (number / 1e6, number / 5e5), "search")


def batch(*numbers: int) -> Batch:
    return Batch(tuple(map(trial, numbers)), wall_s=2.0, host="znver3")


ALL = (batch(1, 2), batch(2, 3, 4), batch(5))


def written(folder: Path, *batches: Batch, header: Header = HEADER) -> RecordFile:
    file = RecordFile(folder, header)
    for one in batches:
        file.append(one)
    return file


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("records"), *ALL).path.read_bytes()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = written(tmp_path, *ALL)
    assert file.record == read_record(file.path)
    assert (file.record.header, file.record.batches, file.record.damage) == (HEADER, ALL, None)


def test_trials_come_in_the_order_of_measuring(content: bytes) -> None:
    assert parse(content).trials == tuple(trial(number) for number in (1, 2, 2, 3, 4, 5))


def test_a_record_that_is_opened_again_goes_on(tmp_path: Path) -> None:
    written(tmp_path, *ALL[:2])
    file = written(tmp_path, ALL[2])
    assert (file.record.batches, read_record(file.path)) == (ALL, file.record)


def test_a_record_grows_by_one_line_a_batch_and_never_changes_what_it_has(tmp_path: Path) -> None:
    file = written(tmp_path, ALL[0])
    before = file.path.read_bytes()
    file.append(ALL[1])
    after = file.path.read_bytes()
    assert after.startswith(before) and after.count(b"\n") == before.count(b"\n") + 1


def test_a_failed_trial_keeps_the_end_of_its_error(tmp_path: Path) -> None:
    failed = SearchTrial([[], []], (), "schedule", "x" * 1000 + "LLVM ERROR")
    (read,) = parse(written(tmp_path, Batch((failed,), 1.0, "znver3")).path.read_bytes()).trials
    assert read.error is not None
    assert (read.run_seconds, read.origin, len(read.error)) == ((), "schedule", 300)
    assert read.error.endswith("LLVM ERROR")


def test_times_are_written_in_whole_nanoseconds(tmp_path: Path) -> None:
    odd = replace(trial(1), run_seconds=(1.23456789012e-5, 1e-12))
    (read,) = parse(written(tmp_path, Batch((odd,), 1.0, "znver3")).path.read_bytes()).trials
    assert read.run_seconds == (1.2346e-5, 1e-9)


@given(st.data())
def test_a_record_cut_anywhere_keeps_its_whole_lines(content: bytes, data: Any) -> None:
    cut = data.draw(st.integers(0, len(content)))
    record = parse(content[:cut])
    lines = content[:cut].count(b"\n")
    assert record.batches == ALL[: max(0, lines - 1)]
    assert record.good_bytes == content[:cut].rfind(b"\n") + 1
    assert (record.damage is None) == (record.good_bytes == cut)


@given(st.data())
def test_a_record_changed_anywhere_keeps_what_is_before(content: bytes, data: Any) -> None:
    index = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[index]))
    record = parse(content[:index] + bytes([other]) + content[index + 1 :])
    intact = content[:index].count(b"\n")
    assert record.damage is not None
    assert record.good_bytes == len(b"".join(content.splitlines(keepends=True)[:intact]))
    assert record.batches == ALL[: max(0, intact - 1)]


@pytest.mark.parametrize("order", [(0, 1, 3), (0, 2, 3), (0, 1, 3, 2), (0, 1, 1, 2, 3)])
def test_lines_that_are_taken_out_moved_or_doubled_are_noticed(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    same = written(
        tmp_path, *[batch(1)] * 3
    )  # the second and the third batch differ in nothing but their place
    lines = same.path.read_bytes().splitlines(keepends=True)
    record = parse(b"".join(lines[number] for number in order))
    assert (len(record.batches), record.damage is None) == (0 if order[1] == 2 else 1, False)


def test_the_chain_goes_on_after_damage_was_cut_off(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "conv2d-1.jsonl"
    path.write_bytes(content[:-10])
    file = written(tmp_path, ALL[2])
    assert path.read_bytes() == content and file.record.batches == ALL
    assert "line 4 is damaged (it was cut off); its first 5 trials are kept" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": "znver4"}, "target 'znver4', wanted 'x86-64-v3'"),
        ({"format": 99}, "format 99, wanted 1"),
        ({"cores": 2}, "cores 2, wanted 64"),
        ({"structure": "dense-1"}, "structure 'dense-1', wanted 'conv2d-1'"),
    ],
)
def test_a_record_of_another_search_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any], words: str
) -> None:
    foreign = written(tmp_path / "foreign", *ALL, header=replace(HEADER, **wrong)).path.read_bytes()
    (tmp_path / "conv2d-1.jsonl").write_bytes(foreign)
    file = RecordFile(tmp_path, HEADER)
    assert (file.record.header, file.record.batches) == (HEADER, ())
    assert (tmp_path / "conv2d-1.jsonl.refused-1").read_bytes() == foreign
    assert words in caplog.text


def test_what_is_no_record_is_moved_aside_and_none_is_overwritten(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        (tmp_path / "conv2d-1.jsonl").write_bytes(text)
        RecordFile(tmp_path, HEADER)
    aside = [(tmp_path / f"conv2d-1.jsonl.refused-{number}").read_bytes() for number in (1, 2)]
    assert aside == [b"first", b"second"]


def test_an_ending_is_written_once_and_lasts_until_the_next_batch(tmp_path: Path) -> None:
    file = written(tmp_path, ALL[0])
    ending = EarlyEnd(EXHAUSTED, "no more")
    file.end(ending)
    size = file.path.stat().st_size
    file.end(ending)
    assert file.path.stat().st_size == size
    assert RecordFile(tmp_path, HEADER).record.ending == ending
    file.append(ALL[1])
    assert file.record == read_record(file.path) and file.record.ending is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SearchTrial([], (), "search"), "0 times and error None; give one of both"),
        (lambda: SearchTrial([], (1e-6,), "search", "it crashed"), "1 times and error 'it crashed'"),
        (lambda: Batch((), 1.0, "znver3"), "no trials; give 1 or more"),
        (lambda: EarlyEnd("bored", "no reason"), f"kind is 'bored'; give '{EXHAUSTED}' or '{FAILED}'"),
    ],
)
def test_values_that_make_no_sense_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path / "conv2d-1.jsonl") is None


def test_the_mean_of_a_trial_counts_every_trial_once(content: bytes) -> None:
    assert seconds_per_trial([parse(content), parse(content)]) == pytest.approx(6.0 / 6)
    assert seconds_per_trial([parse(b"")]) is None
    assert batch(1, 2).seconds_per_trial == 1.0


def test_a_packed_record_reads_as_the_record(tmp_path: Path) -> None:
    file = written(tmp_path, *ALL)
    (packed,) = pack(tmp_path, tmp_path / "packed")
    assert (packed.name, read_record(packed)) == ("conv2d-1.jsonl.gz", file.record)


def test_packing_gives_the_same_bytes_and_touches_nothing_twice(tmp_path: Path) -> None:
    written(tmp_path, *ALL)
    (first,) = pack(tmp_path, tmp_path / "a")
    (second,) = pack(tmp_path, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert pack(tmp_path, tmp_path / "a") == []


def test_packing_leaves_out_what_is_damaged_and_never_replaces_more_by_less(tmp_path: Path) -> None:
    whole = written(tmp_path, *ALL)
    (packed,) = pack(tmp_path, tmp_path / "packed")
    content = packed.read_bytes()
    whole.path.write_bytes(whole.path.read_bytes()[:-10])
    assert pack(tmp_path, tmp_path / "packed") == [] and packed.read_bytes() == content
    (again,) = pack(tmp_path, tmp_path / "other")
    assert parse(gzip.decompress(again.read_bytes())) == Record(
        HEADER, ALL[:2], None, parse(whole.path.read_bytes()).good_bytes, None
    )


def test_an_unpacked_record_is_continued(tmp_path: Path) -> None:
    written(tmp_path / "there", *ALL[:2])
    pack(tmp_path / "there", tmp_path / "packed")
    assert unpack(tmp_path / "packed", tmp_path / "here", ["conv2d-1", "dense-1"]) == ["conv2d-1"]
    assert written(tmp_path / "here", ALL[2]).record.batches == ALL


def test_unpacking_replaces_only_a_record_that_it_continues(tmp_path: Path) -> None:
    written(tmp_path / "there", *ALL)
    pack(tmp_path / "there", tmp_path / "packed")
    behind = written(tmp_path / "behind", ALL[0])
    another = written(tmp_path / "another", ALL[1])
    for file, expected in ((behind, ALL), (another, (ALL[1],))):
        unpack(tmp_path / "packed", file.path.parent, ["conv2d-1"])
        assert parse(file.path.read_bytes()).batches == expected


def test_a_truncated_packed_record_gives_what_is_left_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    written(tmp_path / "there", *ALL)
    (packed,) = pack(tmp_path / "there", tmp_path / "packed")
    packed.write_bytes(packed.read_bytes()[:-40])
    assert unpack(tmp_path / "packed", tmp_path / "here", ["conv2d-1"]) == ["conv2d-1"]
    record = read_record(tmp_path / "here" / "conv2d-1.jsonl")
    assert record is not None and record.damage is None
    assert 0 < len(record.batches) < len(ALL) and record.batches == ALL[: len(record.batches)]
    assert "only what is before is used" in caplog.text
