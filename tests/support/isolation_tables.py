"""Made-up tables of tenants beside each other and of one rule for late queries, as the study writes them."""

from collections.abc import Sequence

import pandas as pd

from tests.support.plot_tables import SIMULATOR, SITE_COLUMNS, SIX, WORKLOADS

AGGRESSOR = "resnet50"


def neighbour_table(
    policies: Sequence[str] = SIX, seeds: Sequence[int] = (1, 2), factors: Sequence[float] = (0, 1, 4, 10)
) -> pd.DataFrame:
    """Return noisy_neighbour.csv: the more one sends the less are the others on time, most by the first."""
    rows = []
    for rank, policy in enumerate(policies):
        for seed in seeds:
            for factor in factors:
                for model in WORKLOADS["mix"]:
                    queries = int(1000 * factor) if model == AGGRESSOR else 1000
                    on_time = int(queries * max(0.0, 0.99 - 0.01 * seed - 0.09 * factor / (1 + rank)))
                    if queries:
                        rows.append(
                            dict(zip(SITE_COLUMNS, SIMULATOR, strict=True))
                            | {"workload": "mix", "policy": policy, "qps": 40.0 + 10 * factor, "seed": seed}
                            | {"tenant": model, "model": model, "queries": queries, "on_time": on_time}
                            | {"load": 0.5, "factor": factor, "aggressor": AGGRESSOR}
                        )
    return pd.DataFrame(rows)


def equal_drops_table(seeds: pd.DataFrame, rule: str = "when_doomed") -> pd.DataFrame:
    """Return equal_drops.csv of the policies of a capacity_seeds: each serves a fifth more by that rule."""
    scaled = {name: 1.2 * seeds[name] for name in ("qps_at_95", "high_qps", "qps_at_95_minimum")}
    return seeds.assign(**scaled, drop_late=rule)
