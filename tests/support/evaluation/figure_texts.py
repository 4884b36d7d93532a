"""What a reader of a figure sees written, and whether one text covers another."""

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from veltair.evaluation.figures.style import style


def texts(figure: Figure) -> str:
    """Return all visible texts, a line each."""
    return "\n".join(item.get_text() for item in figure.findobj(Text) if item.get_visible())


def written_texts(figure: Figure) -> list[Text]:
    """Return the texts that a reader sees; ticks outside an axis's limits are not drawn."""
    found = list(figure.texts)
    for axes in (axes for axes in figure.axes if axes.get_visible()):
        found += [child for child in axes.get_children() if isinstance(child, Text)]
        found += [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in found if text.get_text().strip() and text.get_visible()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Return pairs of texts that cover each other or leave the figure."""
    with style():
        figure.set_dpi(mpl.rcParams["savefig.dpi"])
        FigureCanvasAgg(figure).draw()
    shown = [(text.get_text(), text.get_window_extent().shrunk(0.98, 0.9)) for text in written_texts(figure)]
    pairs = ((one, two) for index, one in enumerate(shown) for two in shown[:index])
    outside = [(name, "edge") for name, box in shown if figure.bbox.count_contains(box.corners()) != 4]
    return outside + [(one[0], two[0]) for one, two in pairs if one[1].overlaps(two[1])]
