import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from veltair.evaluation.measurement.interference_fit import SourceReadings, fit_pressure
from veltair.evaluation.measurement.interference_plots import fit_figure
from veltair.machine.interference.source import PressureFit


def reports(*sources: str) -> tuple[pd.DataFrame, list[PressureFit]]:
    """Fits of made-up readings: the first source follows the pressure, each further one less."""
    tables, fits = [], []
    for index, source in enumerate(sources):
        coruns = [
            SourceReadings(
                f"{kind} {level:g}", level, tuple((level + 0.1 * index * wave,) for wave in (-1, 1, 2))
            )
            for kind in ("both", "cache", "reads")
            for level in (0.25, 0.5, 1.0)
        ]
        report = fit_pressure(source, ("x",), [SourceReadings("alone", 0.0, ((0.0,),)), *coruns])
        tables.append(report.table)
        fits.append(report.fit)
    return pd.concat(tables, ignore_index=True), fits


def texts(figure: Figure) -> str:
    return "\n".join(item.get_text() for item in figure.findobj(Text) if item.get_visible())


def test_each_source_has_a_panel_with_its_quality_and_axes_with_units() -> None:
    figure = fit_figure(*reports("perf", "probe", "observed slowdown"))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title.split(":")[0] for title in titles] == ["perf", "probe", "observed slowdown"]
    assert titles[0] == "perf: R² 1.00, error 0.00"
    assert all("share, 0 to 1" in axis.get_xlabel() for axis in figure.axes)
    assert "share, 0 to 1" in figure.axes[0].get_ylabel()


def test_the_caption_counts_readings_and_coruns() -> None:
    said = " ".join(texts(fit_figure(*reports("probe"))).split())
    assert "probe n = 28 readings of 10 co-runs" in said


def test_every_reading_is_a_point_at_its_known_pressure() -> None:
    table, fits = reports("probe")
    axis = fit_figure(table, fits).axes[0]
    points = np.vstack([collection.get_offsets() for collection in axis.collections])
    assert sorted(map(tuple, points)) == sorted(zip(table["known"], table["predicted"], strict=True))


def test_kinds_of_load_differ_in_marker_and_in_lightness() -> None:
    figure = fit_figure(*reports("probe"))
    kinds = figure.axes[0].collections
    paths = {kind.get_paths()[0].vertices.tobytes() for kind in kinds}
    grey = [float(kind.get_facecolor()[0][:3] @ [0.299, 0.587, 0.114]) for kind in kinds]
    assert len(paths) == len(kinds) == 4
    assert np.diff(sorted(grey)).min() > 0.08


@pytest.mark.parametrize("count", [1, 2, 3])
def test_nothing_written_overlaps_the_caption_or_leaves_the_figure(count: int) -> None:
    figure = fit_figure(*reports(*["perf", "probe", "observed slowdown"][:count]))
    FigureCanvasAgg(figure).draw()
    caption = figure.texts[-1].get_window_extent()
    legend = figure.legends[0].get_window_extent()
    lowest = min(axis.get_tightbbox().y0 for axis in figure.axes)
    titles = [axis._left_title.get_window_extent() for axis in figure.axes]  # type: ignore[attr-defined]
    assert max(title.y1 for title in titles) <= figure.bbox.y1
    assert caption.y0 >= 0 and caption.x1 <= figure.bbox.x1
    assert caption.y1 <= legend.y0 + 1 and legend.y1 <= lowest + 1


@pytest.mark.parametrize("broken", ["empty", "column", "fits", "source"])
def test_what_cannot_be_drawn_is_refused(broken: str) -> None:
    table, fits = reports("probe")
    if broken == "empty":
        table = table.iloc[:0]
    if broken == "column":
        table = table.drop(columns="known")
    if broken == "fits":
        fits = []
    if broken == "source":
        table = table.assign(source="perf")
    with pytest.raises(ValueError, match=r"nothing to draw|no row of probe"):
        fit_figure(table, fits)
