from math import exp, log

import pandas as pd
import pytest

from veltair.evaluation.validation.network_caches import COLUMNS
from veltair.evaluation.validation.traffic_networks import (
    Factors,
    layer_factors,
    network_factors,
    network_figures,
    network_lines,
    network_totals,
)

MIB = 2**20


def rows(
    simulated: tuple[float, float],
    modelled: tuple[float, float],
    *,
    cache: int = 4,
    model: str = "net",
    layers: int = 2,
) -> pd.DataFrame:
    """Return layers that each move so many MiB, fills and write-backs; alone 8, of which 1 weights."""
    bytes_of = [round(amount * MIB) for amount in (*simulated, *modelled, 8, 1)]
    made = [(model, layer, "warm", 1, cache * MIB, *bytes_of) for layer in range(layers)]
    return pd.DataFrame(made, columns=COLUMNS)


def test_a_network_s_bytes_are_those_of_its_layers_fills_and_write_backs_together() -> None:
    (total,) = network_totals(rows((3, 1), (5, 1))).to_dict("records")
    assert (total["simulated"], total["modelled"]) == (8 * MIB, 12 * MIB)
    assert (total["alone_bytes"], total["constant_bytes"]) == (16 * MIB, 2 * MIB)


def test_too_much_counts_like_too_little_and_each_law_has_its_factors() -> None:
    table = pd.concat([rows((3, 1), (7, 1)), rows((3, 1), (1, 1), cache=8)])
    found = network_factors(table)
    assert found[""].median == pytest.approx(2) and found[""].high == pytest.approx(2)
    assert found["alone"].median == pytest.approx(2) and found["weights"].median == pytest.approx(4)


def test_small_caches_and_networks_that_move_nothing_do_not_count() -> None:
    assert network_factors(pd.concat([rows((3, 1), (7, 1), cache=1), rows((0.1, 0), (7, 1))])) == {}
    assert network_figures(rows((3, 1), (7, 1), cache=1), "it") == {}
    assert "Not compared with callgrind" in network_lines(rows((0.1, 0), (1, 1)))[0]


def test_the_high_factor_is_the_ninety_percent_quantile() -> None:
    found = Factors.of(pd.Series([1.0] * 10 + [exp(1.0)]).to_numpy())
    assert found.median == 1 and log(found.high) == pytest.approx(0, abs=1e-9)


def test_layers_are_compared_by_what_they_fetch_and_one_that_finds_all_is_not_endlessly_off() -> None:
    found = layer_factors(rows((2, 1), (4, 1)))
    assert found is not None and found.median == pytest.approx(2)
    lost = layer_factors(rows((1, 0), (0, 0)))
    assert lost is not None and lost.median == pytest.approx(MIB)
    assert layer_factors(rows((0.01, 0), (0, 0))) is None


def test_figures_and_report_tell_each_law_and_each_network() -> None:
    table = pd.concat([rows((3, 1), (3, 1.1)), rows((3, 1), (3, 1.1), model="other", cache=16)])
    figures = network_figures(table, "snakemake traffic")
    assert figures["traffic_network_factor"].value == pytest.approx(1.025)
    assert set(figures) == {
        *(f"traffic_network_factor{law}{end}" for law in ("", "_alone", "_weights") for end in ("", "_90")),
        *("traffic_layer_factor", "traffic_layer_factor_90"),
    }
    text = "\n".join(network_lines(table))
    assert "goals 1.1 and 1.25: met" in text
    assert "| other" in text and "4 MiB" in text and "16 MiB" in text
