import pandas as pd
import pytest

from tests.support.figure_texts import overlaps, texts
from tests.support.traffic_tables import traffic_table
from veltair.evaluation.validation.traffic_plots import validation_traffic_figure

TABLE = pd.concat(
    [
        traffic_table((1, 2), (2, 2), (4, 2), cache_bytes=2**18),
        traffic_table((1, 2), (2, 2), cache_bytes=2**20),
        traffic_table((8, 2), cache_bytes=2**20, model="other"),
    ],
    ignore_index=True,
)


def test_each_cache_has_a_panel_with_its_error_the_null_models_and_the_number_of_rows() -> None:
    first, second = validation_traffic_figure(TABLE).axes
    assert "cache of 256 KiB" in first.get_title(loc="left") and "n = 3" in first.get_title(loc="left")
    assert "cache of 1 MiB" in second.get_title(loc="left")
    assert "off by 2 \N{MULTIPLICATION SIGN}, null 1 \N{MULTIPLICATION SIGN}" in second.get_title(loc="left")


def test_axes_are_logarithmic_alike_and_have_units() -> None:
    for axis in validation_traffic_figure(TABLE).axes:
        assert axis.get_xlim() == axis.get_ylim()
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        assert "(MiB)" in axis.get_xlabel()


def test_a_dot_stands_at_simulated_and_modelled_mebibytes_and_models_differ_in_shape() -> None:
    _, axis = validation_traffic_figure(TABLE).axes
    dots = [line for line in axis.lines if line.get_linestyle() == "None"]
    assert [list(dots[1].get_xdata()), list(dots[1].get_ydata())] == [[2], [8]]
    assert dots[0].get_marker() != dots[1].get_marker()


def test_no_texts_cover_each_other() -> None:
    assert overlaps(validation_traffic_figure(TABLE)) == []
    assert overlaps(validation_traffic_figure(TABLE[:0])) == []


def test_a_machine_without_valgrind_gets_a_figure_that_says_so() -> None:
    assert "nothing was simulated:" in texts(validation_traffic_figure(TABLE[:0]))


def test_a_table_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"traffic: columns \['ratio'\]"):
        validation_traffic_figure(TABLE.drop(columns="ratio"))
