import math

import pandas as pd
import pytest

from tests.support.plot_tables import SIMULATOR, SITE_COLUMNS
from veltair.evaluation.metrics.neighbour_table import neighbour_shares

RUN = dict(zip(SITE_COLUMNS, SIMULATOR, strict=True)) | {
    **{"workload": "mix", "policy": "P", "qps": 10.0, "seed": 1},
    **{"load": 0.5, "factor": 2.0, "aggressor": "loud"},
}


def table(*rows: tuple[str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            RUN | {"tenant": name, "model": "net", "queries": queries, "on_time": on_time}
            for name, queries, on_time in rows
        ]
    )


def test_the_others_are_pooled_beside_the_one_that_fares_worst_and_the_one_that_sends_more() -> None:
    (row,) = neighbour_shares(table(("loud", 50, 10), ("a", 30, 30), ("b", 10, 2))).to_dict("records")
    assert (row["others"], row["least"], row["aggressor"]) == (32 / 40, 0.2, 0.2)
    assert (row["name"], row["factor"], row["queries"], row["models"]) == ("loud", 2.0, 90, "net")


def test_who_sends_nothing_has_no_share() -> None:
    (row,) = neighbour_shares(table(("a", 30, 30))).to_dict("records")
    assert math.isnan(row["aggressor"]) and row["others"] == 1.0


def test_a_table_without_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noisy_neighbour: columns \['factor'\] are missing"):
        neighbour_shares(table(("a", 1, 1)).drop(columns="factor"))
