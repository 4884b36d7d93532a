"""The figure of single layers in each of their versions."""

import pytest

from tests.support.choice_tables import layer_rows
from tests.support.evaluation.figure_texts import overlaps, texts
from veltair.evaluation.figures.version_choice_plots import shown_counts, version_choice_figure


def test_a_layer_has_a_panel_for_few_cores_and_one_for_more() -> None:
    figure = version_choice_figure(layer_rows())
    assert shown_counts(layer_rows()) == [8, 32]
    titles = [axis.get_title(loc="right") for axis in figure.axes]
    assert sorted(titles) == ["32 cores", "32 cores", "8 cores", "8 cores"]


def test_times_are_over_the_fastest_version_alone_on_the_same_cores() -> None:
    local, parallel = version_choice_figure(layer_rows()).axes[0].lines
    assert list(local.get_ydata()) == pytest.approx([1.0, 1.5, 2.0])
    assert list(parallel.get_ydata()) == pytest.approx([1.2, 1.2 * 1.05, 1.2 * 1.1])


def test_the_figure_says_where_it_is_from_and_no_text_covers_another() -> None:
    figure = version_choice_figure(layer_rows())
    assert "light: mobilenet_v2 3, saves 10 %" in texts(figure)
    assert "UNVALIDATED" in texts(figure)
    assert overlaps(figure) == []


def test_a_table_without_rows_or_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="the table version_layers is empty"):
        version_choice_figure(layer_rows()[:0])
    with pytest.raises(ValueError, match=r"version_layers: columns \['saved'\]"):
        version_choice_figure(layer_rows().drop(columns="saved"))
