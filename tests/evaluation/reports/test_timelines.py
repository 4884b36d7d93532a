from dataclasses import replace
from math import inf
from pathlib import Path

from tests.support.serving.timeline_builders import recorded_run
from veltair.evaluation.experiment.timeline_data import TIMELINE, read_recorded, write_recorded
from veltair.evaluation.metrics.records import Run
from veltair.evaluation.reports.timelines import draw_timelines

RUN = Run("engine", "server", True, "mix", "Planaria", 50.0, 7)


def test_a_timeline_reads_back_equal(tmp_path: Path) -> None:
    timeline, _ = recorded_run(2)
    timeline = replace(timeline, machine=replace(timeline.machine, link_bytes_per_s=inf))
    write_recorded(timeline, RUN, tmp_path)
    found = read_recorded(tmp_path / TIMELINE)
    assert (found.timeline, found.run) == (timeline, RUN)


def test_each_run_has_a_trace_and_a_picture_unless_no_block_ran(tmp_path: Path) -> None:
    for number, queries in enumerate((40, 0)):
        folder = tmp_path / "loadgen" / f"round{number}" / "0.3" / "Planaria-0"
        write_recorded(recorded_run(number, queries=queries)[0], RUN, folder)
    draw_timelines(tmp_path / "loadgen", tmp_path / "figures")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "round0-0.3-Planaria-0.png",
        "round0-0.3-Planaria-0.trace.json",
        "round1-0.3-Planaria-0.trace.json",
    ]
