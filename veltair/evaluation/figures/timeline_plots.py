"""The picture of a timeline: blocks on cores over a window of time, with pressure and waiting queries."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import seaborn as sns
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from veltair.evaluation.figures.perfetto import layers_text, left_out_text
from veltair.evaluation.figures.style import HATCHES, SMALL, style
from veltair.evaluation.metrics.records import Run
from veltair.machine.topology.cpulist import format_cpu_list
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.timeline import BlockSpan, StateSample, Timeline

WIDTH_IN, LEFT_IN, RIGHT_IN = 11.0, 0.95, 0.3
ROW_IN = (0.09, 0.5)  # a core's height: on the largest machines, on the smallest
CORES_IN = 5.8  # the height that the cores of a machine in between share
LOWER_IN, GAP_IN, AXIS_IN = 0.55, 0.14, 0.5
LEGEND_COLUMNS = 6
FEW_CORES = 16  # up to here each core has its label
CHARACTER_IN = 0.64 / 72  # width of a character of a label, per point of its size
YIELDED: dict[str, Any] = {"color": "black", "linewidth": 2.5, "solid_capstyle": "butt"}
LIGHT = 0.55  # how far colours are mixed with white, so that hatches and labels can be read on them


@dataclass(frozen=True, slots=True)
class _Piece:
    """Neighbouring rows that a block holds for the same time: a rectangle of the picture."""

    span: BlockSpan
    row: int
    rows: int
    begin_s: float
    end_s: float
    reserved: bool


def gantt_figure(
    timeline: Timeline, run: Run, begin_s: float, end_s: float, notes: Sequence[str] = ()
) -> Figure:
    """Return the blocks of [begin_s, end_s) on the machine's cores, a row each, in the order of cache groups.

    `notes` are what else the caption says. Raises ValueError if the window is empty or no block ran in it.
    """
    spans = timeline.between(begin_s, end_s)
    if not spans:
        raise ValueError(
            f"no recorded block ran from {begin_s:g} s to {end_s:g} s; the run's last event is at "
            f"{timeline.end_s:g} s {left_out_text(timeline)}".strip()
        )
    models = sorted(timeline.layers)
    caption = _caption(timeline, run, spans, notes)
    handles = _handles(models, any(span.yielding for span in spans))
    with style():
        figure, (cores, pressure, pending) = _axes(timeline.machine, len(caption), len(handles))
        _draw_blocks(cores, timeline, spans, models, (begin_s, end_s))
        _name_rows(cores, timeline.machine)
        samples = _within(timeline, begin_s, end_s)
        times_s = [*(sample.time_s for sample in samples), min(end_s, timeline.end_s)]
        _draw_steps(pressure, times_s, [sample.pressure for sample in samples], "pressure\n(0 to 1)")
        pressure.set(ylim=(0, 1.05), yticks=[0, 1])
        _draw_steps(pending, times_s, [sample.pending for sample in samples], "waiting\nqueries")
        pending.set_ylim(0, 1.05 * max([1, *(sample.pending for sample in samples)]))
        pending.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        pending.set_xlim(1e3 * begin_s, 1e3 * end_s)
        pending.set_xlabel("time since the run began (ms)")
        figure.align_ylabels([pressure, pending])
        _write_around(figure, handles, caption)
    return figure


def _write_around(figure: Figure, handles: Sequence[Artist], caption: Sequence[str]) -> None:
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(LEFT_IN / WIDTH_IN, 1),
        ncols=LEGEND_COLUMNS,
        frameon=False,
        fontsize=8,
        handlelength=3,
    )
    figure.text(
        0.1 / WIDTH_IN,
        0.05 / figure.get_size_inches()[1],
        "\n".join(caption),
        fontsize=SMALL,
        va="bottom",
        linespacing=1.25,
        parse_math=False,
    )


def _caption(timeline: Timeline, run: Run, spans: Sequence[BlockSpan], notes: Sequence[str]) -> list[str]:
    conflicts = sum(span.in_conflict for span in spans)
    yielded = sum(span.yielding is not None for span in spans)
    yields = f" {yielded} yielded to others before their last layer." if yielded else ""
    text = (
        f"{run}. {len(spans)} blocks, {conflicts} of them on fewer cores than they wanted (bold).{yields} "
        "Labels: query, layers, granted/wanted cores. "
        f"Core ids {timeline.cores_from}. {left_out_text(timeline)}"
    )
    return textwrap.wrap(" ".join([text.strip(), *notes]), int(17.5 * WIDTH_IN))


def _within(timeline: Timeline, begin_s: float, end_s: float) -> list[StateSample]:
    """Return the samples that hold in a window: those in it, and the last before."""
    before = [sample for sample in timeline.samples if sample.time_s < begin_s]
    return before[-1:] + [sample for sample in timeline.samples if begin_s <= sample.time_s < end_s]


def _axes(machine: Machine, caption_lines: int, handles: int) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with room for all cores, and its axes from the top."""
    legend_in = 0.12 + 0.19 * -(-handles // LEGEND_COLUMNS)
    bottom_in = AXIS_IN + 0.15 * caption_lines
    heights = [_row_in(machine.cores) * machine.cores, LOWER_IN, LOWER_IN]
    height_in = bottom_in + sum(heights) + 2 * GAP_IN + legend_in
    figure = Figure(figsize=(WIDTH_IN, height_in))
    axes: list[Axes] = []
    top_in = height_in - legend_in
    for tall in heights:
        box = (LEFT_IN, top_in - tall, WIDTH_IN - LEFT_IN - RIGHT_IN, tall)
        scaled = (box[0] / WIDTH_IN, box[1] / height_in, box[2] / WIDTH_IN, box[3] / height_in)
        axes.append(figure.add_axes(scaled, sharex=axes[0] if axes else None))
        top_in -= tall + GAP_IN
    for axis in axes[:-1]:
        axis.tick_params(axis="x", labelbottom=False, length=0)
    return figure, axes


def _row_in(cores: int) -> float:
    return min(max(CORES_IN / cores, ROW_IN[0]), ROW_IN[1])


def _draw_blocks(
    axis: Axes,
    timeline: Timeline,
    spans: Sequence[BlockSpan],
    models: Sequence[str],
    shown_s: tuple[float, float],
) -> None:
    axis.set_ylim(timeline.machine.cores, 0)
    rows = {core: row for row, core in enumerate(timeline.machine.core_ids)}
    faces, hatches = _looks(models)
    for span in spans:
        pieces = [piece for piece in _pieces(span, rows) if _visible(piece, shown_s)]
        for piece in pieces:
            model = span.block.model
            axis.add_patch(
                Rectangle(
                    (1e3 * piece.begin_s, piece.row),
                    1e3 * (piece.end_s - piece.begin_s),
                    piece.rows,
                    facecolor="white" if piece.reserved else faces[model],
                    edgecolor="0.25",
                    hatch="" if piece.reserved else hatches[model],
                    linestyle=":" if piece.reserved else "-",
                    linewidth=0.6,
                )
            )
        used = [piece for piece in pieces if not piece.reserved]
        if span.yielding is not None:
            _mark_yield(axis, span, used)
        if used:
            largest = max(used, key=lambda piece: _area(piece, shown_s))
            _label(axis, largest, _row_in(timeline.machine.cores), shown_s)


def _mark_yield(axis: Axes, span: BlockSpan, used: Sequence[_Piece]) -> None:
    """Draw the end of a block that yielded as a thick edge."""
    for piece in used:
        if piece.end_s == span.end_s:
            end_ms = 1e3 * piece.end_s
            axis.plot([end_ms] * 2, [piece.row, piece.row + piece.rows], **YIELDED)


def _pieces(span: BlockSpan, rows: dict[int, int]) -> Iterator[_Piece]:
    """Yield a block's rectangles: what each core did, neighbours that did the same as one."""
    stretches = []
    for tenure in span.tenures:
        row = rows[tenure.core]
        if tenure.use_s > tenure.begin_s:
            stretches.append((True, tenure.begin_s, tenure.use_s, row))
        if tenure.end_s > tenure.use_s:
            stretches.append((False, tenure.use_s, tenure.end_s, row))
    stretches.sort()
    while stretches:
        reserved, begin_s, end_s, row = stretches.pop(0)
        count = 1
        while stretches and stretches[0] == (reserved, begin_s, end_s, row + count):
            stretches.pop(0)
            count += 1
        yield _Piece(span, row, count, begin_s, end_s, reserved)


def _visible(piece: _Piece, shown_s: tuple[float, float]) -> bool:
    return piece.begin_s < shown_s[1] and piece.end_s > shown_s[0]


def _area(piece: _Piece, shown_s: tuple[float, float]) -> float:
    return piece.rows * (min(piece.end_s, shown_s[1]) - max(piece.begin_s, shown_s[0]))


def _label(axis: Axes, piece: _Piece, row_in: float, shown_s: tuple[float, float]) -> None:
    """Write on a block as much as fits: query, layers, granted and wanted cores."""
    begin_s, end_s = max(piece.begin_s, shown_s[0]), min(piece.end_s, shown_s[1])
    width_in = (WIDTH_IN - LEFT_IN - RIGHT_IN) * (end_s - begin_s) / (shown_s[1] - shown_s[0])
    size = min(SMALL, 72 * row_in * piece.rows * 0.75)
    span = piece.span
    query, layers, cores = f"q{span.query.id}", layers_text(span), f"{span.cores}/{span.wanted_cores}"
    for text in (f"{query}  {layers}  {cores}", f"{query}  {cores}", query):
        if size >= 4.5 and len(text) * size * CHARACTER_IN < width_in - 0.02:
            axis.text(
                1e3 * (begin_s + end_s) / 2,
                piece.row + piece.rows / 2,
                text,
                ha="center",
                va="center_baseline",
                fontsize=size,
                weight="bold" if span.in_conflict else "normal",
                path_effects=[patheffects.withStroke(linewidth=2.2, foreground="white")],
                clip_on=True,
            )
            return


def _name_rows(axis: Axes, machine: Machine) -> None:
    size = len(machine.cache_groups[0])
    for row in range(size, machine.cores, size):
        axis.axhline(row, color="black", linewidth=0.5, linestyle=(0, (1, 3)), zorder=3)
    if machine.cores <= FEW_CORES:
        axis.set_yticks([row + 0.5 for row in range(machine.cores)], list(map(str, machine.core_ids)))
    else:
        middles = [size * (number + 0.5) for number in range(len(machine.cache_groups))]
        axis.set_yticks(middles, [format_cpu_list(group) for group in machine.cache_groups])
    axis.tick_params(axis="y", length=0, labelsize=SMALL)
    axis.set_ylabel("core" if len(machine.cache_groups) == 1 else "core (dotted lines part L3 groups)")
    axis.spines[["left", "bottom"]].set_visible(False)


def _draw_steps(axis: Axes, times_s: Sequence[float], values: Sequence[float], label: str) -> None:
    """Draw values that hold from their times on; the last time ends the last one."""
    times_ms = [1e3 * time_s for time_s in times_s]
    held = [*values, *(values[-1:] or [0])]
    axis.step(times_ms, held, where="post", color="black", linewidth=1)
    axis.fill_between(times_ms, held, step="post", color="0.85")
    axis.tick_params(labelsize=SMALL)
    axis.set_ylabel(label, fontsize=SMALL)


def _looks(models: Sequence[str]) -> tuple[dict[str, tuple[float, float, float]], dict[str, str]]:
    """Return a light colour and a hatch for each model: the hatch tells them apart in grey."""
    palette = sns.color_palette("colorblind", max(10, len(models)))
    faces, hatches = {}, {}
    for index, model in enumerate(models):
        red, green, blue = (LIGHT + (1 - LIGHT) * part for part in palette[index])
        faces[model] = (red, green, blue)
        hatches[model] = HATCHES[index % len(HATCHES)]
    return faces, hatches


def _handles(models: Sequence[str], yields: bool) -> list[Artist]:
    faces, hatches = _looks(models)
    known: list[Artist] = [
        Patch(facecolor=faces[model], edgecolor="0.25", hatch=hatches[model], label=model) for model in models
    ]
    reserved = Patch(facecolor="white", edgecolor="0.25", linestyle=":", label="reserved, not yet in use")
    return [*known, reserved, *([Line2D([], [], label="yielded", **YIELDED)] if yields else [])]
