"""The comparison of policies with one rule for late queries, beside that of the policies as they come."""

from collections.abc import Sequence

import pandas as pd

from veltair.evaluation.metrics.capacity_table import REFERENCE, capacities, ratio_text, ratios
from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.metrics.policies_table import NONE, PolicyOrder, number

KEYS = ["backend", "machine", "workload", "policy"]


def equal_drops_section(usual: pd.DataFrame, ruled: pd.DataFrame, order: PolicyOrder) -> Sequence[str]:
    """Return the lines of a table with a row a workload and policy.

    `ruled` are rows of equal_drops.csv, `usual` of capacity_seeds.csv; what the latter lacks has no number.
    """
    rules = ", ".join(sorted({*ruled["drop_late"]} - {""}))
    before, over = (table.set_index(KEYS).to_dict("index") for table in (capacities(usual), ratios(ruled)))
    found = {(row["workload"], row["policy"]): row for row in capacities(ruled).to_dict("records")}
    known = dict(zip(ruled["policy"], ruled["drop_late"], strict=True))
    rows = []
    for workload in dict.fromkeys(ruled["workload"]):
        for policy in order.of(ruled["policy"]):
            if (row := found.get((workload, policy))) is None:
                continue
            key = tuple(row[name] for name in KEYS)
            own = before.get(key)
            rows.append(
                [
                    workload,
                    policy,
                    known[policy] or "no such option",
                    NONE if own is None else _qps(own["mean"], own["note"]),
                    _qps(row["mean"], row["note"]),
                    ratio_text(over[key]),
                ]
            )
    header = ["Workload", "Policy", "drop_late", "QPS at 95 % QoS, own rule", "with the one rule"]
    return [
        "",
        f"Every policy with `drop_late: {rules}`: what it gains over its own rule comes of giving up.",
        "",
        *markdown_table([*header, f"÷ {REFERENCE}"], rows),
    ]


def _qps(mean: float, note: str) -> str:
    return note or number(mean)
