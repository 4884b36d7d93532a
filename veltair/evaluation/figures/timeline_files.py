"""A timeline as files: a trace to open in a viewer, and a picture of its busiest window."""

from pathlib import Path

from veltair.evaluation.figures.perfetto import trace_json
from veltair.evaluation.figures.save import save
from veltair.evaluation.figures.timeline_plots import gantt_figure
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder
from veltair.evaluation.metrics.records import Run
from veltair.provenance import Provenance, write_atomically, write_result
from veltair.serving.loop.timeline import Timeline

BLOCKS_SHOWN = 40  # in a window that nobody chose


def write_timeline(
    timeline: Timeline,
    run: Run,
    stem: Path,
    window_s: tuple[float, float] | None = None,
    provenance: Provenance | None = None,
    order: PolicyOrder = AS_THEY_COME,
) -> list[Path]:
    """Write STEM.trace.json and STEM.png and return their paths; a run in which no block ran has no picture.

    `window_s` are begin and end of the picture, in seconds since the run began; the busiest if not given.
    `order` tells the policy's options. Raises ValueError on a window in which nothing ran; then nothing is
    written.
    """
    figure = None
    if timeline.spans or window_s is not None:
        window_s = window_s or busy_window(timeline)
        figure = gantt_figure(timeline, run, *window_s, notes=order.options_note([run.policy]))
    trace, content = stem.with_name(f"{stem.name}.trace.json"), trace_json(timeline, run)
    if provenance is None:
        write_atomically({trace: content})
    else:
        write_result(trace, content, provenance)
    return [trace, *(save(figure, stem, ["png"]) if figure is not None else [])]


def busy_window(timeline: Timeline) -> tuple[float, float]:
    """Return begin and end, in whole milliseconds, of the shortest time in which 40 blocks started.

    Raises ValueError if no block was recorded.
    """
    if not timeline.spans:
        raise ValueError("no block ran in the whole run; offer a higher rate or choose another policy")
    starts_s = sorted(span.start_s for span in timeline.spans)
    count = min(BLOCKS_SHOWN, len(starts_s))
    # The first of equal ones, so that the same run shows the same window.
    begin_s, end_s = min(
        zip(starts_s, starts_s[count - 1 :], strict=False), key=lambda pair: pair[1] - pair[0]
    )
    return int(1e3 * begin_s) / 1e3, (int(1e3 * end_s) + 1) / 1e3
