import numpy as np
import pytest

from tests.support.evaluation.plot_tables import pressure_fits
from veltair.evaluation.measurement.interference_plots import fit_figure


def test_each_source_has_a_panel_with_its_quality_and_axes_with_units() -> None:
    figure = fit_figure(*pressure_fits("perf", "probe", "observed slowdown"))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title.split(":")[0] for title in titles] == ["perf", "probe", "observed slowdown"]
    assert titles[0] == "perf: R² 1.00, error 0.00"
    assert all("share, 0 to 1" in axis.get_xlabel() for axis in figure.axes)
    assert "share, 0 to 1" in figure.axes[0].get_ylabel()


def test_every_reading_is_a_point_at_its_known_pressure() -> None:
    table, fits = pressure_fits("probe")
    axis = fit_figure(table, fits).axes[0]
    points = np.vstack([collection.get_offsets() for collection in axis.collections])
    assert sorted(map(tuple, points)) == sorted(zip(table["known"], table["predicted"], strict=True))


def test_kinds_of_load_differ_in_marker_and_in_lightness() -> None:
    figure = fit_figure(*pressure_fits("probe"))
    kinds = figure.axes[0].collections
    paths = {kind.get_paths()[0].vertices.tobytes() for kind in kinds}
    grey = [float(kind.get_facecolor()[0][:3] @ [0.299, 0.587, 0.114]) for kind in kinds]
    assert len(paths) == len(kinds) == 4
    assert np.diff(sorted(grey)).min() > 0.08


@pytest.mark.parametrize("broken", ["empty", "column", "fits", "source"])
def test_what_cannot_be_drawn_is_refused(broken: str) -> None:
    table, fits = pressure_fits("probe")
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
