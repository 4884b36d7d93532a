"""What a noisy neighbour leaves the others: their share of queries on time, by how much it sends."""

import pandas as pd

from veltair.evaluation.metrics.records import RUN_COLUMNS, check_columns

NEIGHBOUR_COLUMNS = (*RUN_COLUMNS, "load", "factor", "aggressor", "tenant", "model", "queries", "on_time")


def neighbour_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run: its columns, `load`, `factor`, `name` of who sends more, and shares on time.

    `table` has a row a run and tenant, as noisy_neighbour.csv. `others` is the share of all others' queries
    on time, pooled, `least` that of the one that fares worst, `aggressor` that tenant's; NaN without a
    counted query. `queries` are all counted ones.
    """
    check_columns(table, NEIGHBOUR_COLUMNS, "noisy_neighbour")
    if table.empty:
        raise ValueError("there is nothing to draw: the table noisy_neighbour is empty")
    rows = []
    keys = [*RUN_COLUMNS, "load", "factor", "aggressor"]
    for key, run in table.groupby(keys, sort=False):
        named = dict(zip(keys, key, strict=True))
        name = named.pop("aggressor")
        others, own = run[run["tenant"] != name], run[run["tenant"] == name]
        each = others["on_time"] / others["queries"].where(others["queries"] > 0)
        shares = {"others": _share(others), "least": float(each.min()), "aggressor": _share(own)}
        models = ", ".join(dict.fromkeys(run["model"]))
        rows.append({**named, "models": models, "name": name, **shares, "queries": int(run["queries"].sum())})
    return pd.DataFrame(rows)


def _share(rows: pd.DataFrame) -> float:
    queries = int(rows["queries"].sum())
    return float(rows["on_time"].sum()) / queries if queries else float("nan")
