import pytest

from tests.support.evaluation.figure_texts import texts
from tests.support.evaluation.traffic_tables import SIZES_TABLE
from veltair.evaluation.validation.traffic_plots import validation_traffic_figure


def test_each_cache_has_a_panel_with_its_error_the_null_models_and_the_number_of_rows() -> None:
    first, second = validation_traffic_figure(SIZES_TABLE).axes
    assert "cache of 256 KiB" in first.get_title(loc="left") and "n = 3" in first.get_title(loc="left")
    assert "cache of 1 MiB" in second.get_title(loc="left")
    assert "off by 2 \N{MULTIPLICATION SIGN}, null 1 \N{MULTIPLICATION SIGN}" in second.get_title(loc="left")


def test_axes_are_logarithmic_alike_and_have_units() -> None:
    for axis in validation_traffic_figure(SIZES_TABLE).axes:
        assert axis.get_xlim() == axis.get_ylim()
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        assert "(MiB)" in axis.get_xlabel()


def test_a_dot_stands_at_simulated_and_modelled_mebibytes_and_models_differ_in_shape() -> None:
    _, axis = validation_traffic_figure(SIZES_TABLE).axes
    dots = [line for line in axis.lines if line.get_linestyle() == "None"]
    assert [list(dots[1].get_xdata()), list(dots[1].get_ydata())] == [[2], [8]]
    assert dots[0].get_marker() != dots[1].get_marker()


def test_a_machine_without_valgrind_gets_a_figure_that_says_so() -> None:
    assert "nothing was simulated:" in texts(validation_traffic_figure(SIZES_TABLE[:0]))


def test_a_table_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"traffic: columns \['ratio'\]"):
        validation_traffic_figure(SIZES_TABLE.drop(columns="ratio"))
