import pandas as pd
import pytest

from tests.support.evaluation.traffic_tables import traffic_table
from veltair.evaluation.validation.traffic_errors import traffic_figures, traffic_lines, traffic_ratios

# Ratios 0.5, 1, 2, 4 and 1; each byte once: 2 MiB.
FIVE = traffic_table((1, 2), (2, 2), (4, 2), (8, 2), (4, 4))
NONE = traffic_table()


def test_quartiles_are_of_the_ratios_and_the_factor_counts_too_little_like_too_much() -> None:
    found = traffic_ratios(FIVE)
    assert found is not None and found.quartiles == (1, 1, 2)
    assert sorted(found.ratios) == [0.5, 1, 1, 2, 4]
    # |ln ratio| are ln 2, 0, ln 2, ln 4, 0; of the null model 0, 0, 0, 0, ln 2.
    assert (found.factor, found.null_factor) == (pytest.approx(2), pytest.approx(1))


def test_a_kernel_of_which_nothing_missed_does_not_count() -> None:
    found = traffic_ratios(traffic_table((1, 0), (2, 1)))
    assert found is not None and found.ratios == (2,)


def test_nothing_simulated_gives_no_numbers_and_the_report_says_so() -> None:
    assert traffic_ratios(NONE) is None and traffic_figures(NONE, "it") == {}
    assert "Not compared with cachegrind: valgrind is not installed here" in "\n".join(traffic_lines(NONE))


def test_a_report_that_was_not_asked_for_traffic_has_no_such_section() -> None:
    assert traffic_lines(None) == []


def test_the_numbers_keep_their_samples_and_the_command() -> None:
    figures = traffic_figures(FIVE, "snakemake traffic")
    names = ("min", "low_quartile", "median", "high_quartile", "max")
    assert [figures[f"traffic_ratio_{name}"].value for name in names] == [0.5, 1, 1, 2, 4]
    assert figures["traffic_ratio_max"].samples == tuple(FIVE["ratio"])
    assert {one.command for one in figures.values()} == {"snakemake traffic"}
    assert figures["traffic_factor_null"].value == pytest.approx(1)


def test_the_report_names_the_sample_and_the_layers_that_are_furthest_off() -> None:
    both = pd.concat([FIVE, traffic_table((3, 3), cache_bytes=2**18, model="other")], ignore_index=True)
    text = "\n".join(traffic_lines(both))
    assert "caches of 256 KiB and 1 MiB: median 1, quartiles 1 and 1.75" in text
    assert "n = 6 (6 layers of net, other)" in text
    furthest = [line for line in text.splitlines() if line.startswith("- ")]
    assert furthest[0] == (
        "- net layer 3, version 0, 1 MiB: 4, modelled 8 MiB, simulated 2 MiB; 8 iterations of 0.5 MiB, "
        "together 2 MiB"
    )
    assert len(furthest) == 3
