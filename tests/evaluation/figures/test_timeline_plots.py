from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tests.support.timeline_builders import recorded_run
from veltair.evaluation.figures.timeline_plots import gantt_figure
from veltair.evaluation.metrics.records import Run
from veltair.serving.loop.timeline import Timeline

NAME = Run("simulator", "server", False, "mix", "Planaria", 123.456, 7)


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return recorded_run(1, cores=8, placement="pinned")[0]


def draw(timeline: Timeline, begin_s: float = 0.0, end_s: float | None = None) -> Figure:
    return gantt_figure(timeline, NAME, begin_s, timeline.end_s if end_s is None else end_s)


def test_the_caption_says_what_else_it_is_told(timeline: Timeline) -> None:
    notes = ["Options order: fcfs."]
    assert caption(gantt_figure(timeline, NAME, 0.0, timeline.end_s, notes)).endswith(notes[0])


def rectangles(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def caption(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_rectangles_cover_exactly_the_time_that_blocks_held_cores(timeline: Timeline) -> None:
    drawn_core_ms = sum(box.get_width() * box.get_height() for box in rectangles(draw(timeline)))
    held_s = sum(tenure.end_s - tenure.begin_s for span in timeline.spans for tenure in span.tenures)
    assert drawn_core_ms == pytest.approx(1e3 * held_s)


def test_neighbouring_cores_with_the_same_block_are_one_rectangle(timeline: Timeline) -> None:
    tenures = sum(len(span.tenures) for span in timeline.spans)
    assert len(rectangles(draw(timeline))) < tenures


def test_a_window_shows_only_blocks_that_ran_in_it(timeline: Timeline) -> None:
    middle_s = timeline.end_s / 2
    boxes = rectangles(draw(timeline, 0.0, middle_s))
    assert all(box.get_x() < 1e3 * middle_s for box in boxes)
    assert 0 < len(boxes) < len(rectangles(draw(timeline)))


def test_rows_are_named_by_core_on_a_small_machine_and_by_cache_group_on_a_large_one(
    timeline: Timeline,
) -> None:
    names = [label.get_text() for label in draw(timeline).axes[0].get_yticklabels()]
    assert names == ["0", "2", "4", "6", "1", "3", "5", "7"]
    large = draw(recorded_run(1, cores=64)[0])
    assert len(large.axes[0].get_yticklabels()) == 16


def test_the_caption_says_what_the_limit_left_out() -> None:
    cut, _ = recorded_run(1, cores=8, limit=5)
    assert f"{cut.left_out['blocks']} blocks" in caption(draw(cut)).split("left out")[1]


def test_the_end_of_a_block_that_yielded_is_a_thick_edge_that_the_legend_names(timeline: Timeline) -> None:
    yielded = [span for span in timeline.spans if span.yielding]
    assert yielded
    figure = draw(timeline)
    edges_ms = {line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linewidth() == 2.5}
    assert edges_ms == {1e3 * span.end_s for span in yielded}
    assert f"{len(yielded)} yielded to others before their last layer" in caption(figure)
    assert "yielded" in legend(figure)
    none = replace(timeline, spans=tuple(span for span in timeline.spans if not span.yielding))
    assert "yielded" not in [*legend(draw(none)), caption(draw(none))]


def test_models_differ_in_grey_and_in_their_hatch(timeline: Timeline) -> None:
    looks = {(to_rgb(box.get_facecolor()), box.get_hatch()) for box in rectangles(draw(timeline))}
    filled = [(face, hatch) for face, hatch in looks if face != (1.0, 1.0, 1.0)]
    assert len(filled) == len({hatch for _, hatch in filled}) == 2
    # On white paper each is still a shade of grey, light enough for a label.
    shades = [float(np.dot(face, (0.299, 0.587, 0.114))) for face, _ in filled]
    assert all(0.5 < shade < 0.9 for shade in shades)


def test_a_window_in_which_nothing_ran_is_refused_with_the_end_of_the_run(timeline: Timeline) -> None:
    with pytest.raises(ValueError, match="no recorded block ran from 900 s to 901 s; the run's last event"):
        draw(timeline, 900.0, 901.0)
