"""Tables of measured runs, made up: policies at four rates in five rounds that differ."""

import pandas as pd

FASTER = 1.1  # as many queries as Planaria in every round
RATES = (10.0, 20.0, 30.0, 40.0)
ROUNDS = (0.85, 0.95, 1.0, 1.05, 1.15)  # how much a round lets everybody serve
POLICIES = {"Planaria": 25.0, "Faster": 25.0 * FASTER, "Bad": 2.0, "Good": 400.0}
QUERIES = 100  # of each round and rate, half of each model


def count_table(policies: "dict[str, float] | None" = None) -> pd.DataFrame:
    """Return counts as `slot_counts` does: satisfaction falls with the rate over what a policy serves.

    The worst of the two models misses twice as many queries as the other.
    """
    rows = []
    for policy, serves_qps in (policies or POLICIES).items():
        for number, factor in enumerate(ROUNDS):
            for qps in RATES:
                missed = min(0.5, max(0.0, 0.05 * (qps / (serves_qps * factor)) ** 4))
                for model, part in (("small", 2 / 3), ("large", 4 / 3)):
                    on_time = round(QUERIES / 2 * (1 - part * missed))
                    rows.append((policy, number, 0.015 * qps, qps, model, QUERIES // 2, on_time))
    columns = ["policy", "round", "share", "qps", "model", "counted", "on_time"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(backend="engine", machine="host", validated=True, workload="mix")
