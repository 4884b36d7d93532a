import json
from pathlib import Path

import pytest

from tests.support.serving.timeline_builders import recorded_run
from veltair.evaluation.figures.timeline_files import BLOCKS_SHOWN, busy_window, write_timeline
from veltair.evaluation.metrics.records import Run

NAME = Run("engine", "server", True, "mix", "Planaria", 50.0, 7)


def test_a_trace_and_a_picture_are_written_beside_each_other(tmp_path: Path) -> None:
    timeline, _ = recorded_run(2)
    trace, picture = write_timeline(timeline, NAME, tmp_path / "run" / "timeline")
    assert (trace.name, picture.name) == ("timeline.trace.json", "timeline.png")
    assert json.loads(trace.read_text())["otherData"]["run"] == str(NAME)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_run_in_which_no_block_ran_has_a_trace_but_no_picture(tmp_path: Path) -> None:
    timeline, _ = recorded_run(0, queries=0)
    assert write_timeline(timeline, NAME, tmp_path / "timeline") == [tmp_path / "timeline.trace.json"]


def test_nothing_is_written_for_a_window_in_which_nothing_ran(tmp_path: Path) -> None:
    timeline, _ = recorded_run(2)
    with pytest.raises(ValueError, match="no recorded block ran from 900 s"):
        write_timeline(timeline, NAME, tmp_path / "timeline", (900.0, 901.0))
    assert list(tmp_path.iterdir()) == []


def test_the_window_is_the_shortest_in_which_so_many_blocks_start() -> None:
    timeline, _ = recorded_run(2, cores=8, queries=100)
    begin_s, end_s = busy_window(timeline)
    starts = [span.start_s for span in timeline.spans]
    assert sum(begin_s <= start < end_s for start in starts) >= BLOCKS_SHOWN
    width_s = end_s - begin_s - 0.002
    for start in starts:
        assert sum(start <= other <= start + width_s for other in starts) <= BLOCKS_SHOWN


def test_a_run_without_blocks_has_no_window() -> None:
    timeline, _ = recorded_run(0, queries=0)
    with pytest.raises(ValueError, match="no block ran in the whole run"):
        busy_window(timeline)
