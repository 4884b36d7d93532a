import json

import numpy as np
import pandas as pd

from veltair.evaluation.metrics.measured_tables import slot_counts
from veltair.evaluation.runtimes.remote_page import Alone, remote_page

LATENCIES_S = {"theirs": 0.030, "null": 0.001}
STEPS = {"queue_mean_ms": 1.5, "compute_infer_mean_ms": 20.25}


def records(misses: int = 0) -> pd.DataFrame:
    rows = [
        {
            **{
                "backend": "measured",
                "machine": "host",
                "validated": True,
                "workload": "mix",
                "policy": policy,
            },
            **{"qps": qps, "seed": number, "query_id": query, "tenant": "tiny", "model": "tiny"},
            **{"latency_s": latency_s, "counted": True, "qos_s": 0.05},
            "ending": "rejected" if query < misses and policy == "theirs" else "served",
            "on_time": not (query < misses and policy == "theirs"),
        }
        for policy, latency_s in LATENCIES_S.items()
        for number, qps in enumerate((10.0, 20.0))
        for query in range(10)
    ]
    return pd.DataFrame(rows)


def slots(reasons: str = "") -> pd.DataFrame:
    rows = [
        {
            **{
                "workload": "mix",
                "policy": policy,
                "round": 0,
                "share": qps / 40,
                "qps": qps,
                "seed": number,
            },
            **{"kept": True, "queries": 10, "issue_delay_p99_s": 1e-4, "delivery_p99_s": 2e-4},
            **{"client_cpu_s": 0.005, "connections_opened": 2, "misses": 0},
            "miss_reasons": reasons if policy == "theirs" else "",
            "server_counts": json.dumps(
                {"tiny": {"success": 9, "fail": 1, **STEPS}} if policy == "theirs" else {}
            ),
        }
        for policy in LATENCIES_S
        for number, qps in enumerate((10.0, 20.0))
    ]
    return pd.DataFrame(rows)


def page(found: pd.DataFrame, table: pd.DataFrame, is_loopback: bool = True) -> str:
    alone = {name: Alone({"tiny": value}, 9000, is_loopback) for name, value in LATENCIES_S.items()}
    counts = slot_counts(found, table)
    return "\n".join(remote_page(found, table, counts, alone, 0.95, np.random.default_rng(1)))


def test_each_figure_has_the_clients_floor_beside_it() -> None:
    text = page(records(), slots())
    assert "30.00 (1.00)" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    (cells,) = [row for row in rows if row[:2] == ["20", "theirs"] and len(row) > 9]
    assert cells == ["20", "theirs", "10", "100.0%", *["30.00 (1.00)"] * 3, "0", "0.30", "0.50", "2"]


def test_misses_are_told_with_their_reasons() -> None:
    text = page(records(misses=3), slots("429: full (3)"))
    assert "- theirs, 10 QPS: 429: full (3)" in text
    assert "70.0%" in text


def test_what_a_server_counts_stands_apart() -> None:
    text = page(records(), slots())
    row = next(line for line in text.splitlines() if "20.25" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("10", "theirs", "tiny", "9", "1", "1.50", "", "20.25", ""),
    ]


def test_a_page_over_loopback_says_so() -> None:
    assert "over loopback, not the Network division" in page(records(), slots())
    assert "over loopback" not in page(records(), slots(), is_loopback=False)
