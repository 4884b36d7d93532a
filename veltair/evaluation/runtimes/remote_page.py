"""The page of servers under LoadGen over HTTP: what each took, beside the server that computes nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from veltair.config.remote_keys import NULL_SERVER
from veltair.evaluation.metrics.bounds import Reach
from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.metrics.measured_tables import measured_workloads
from veltair.evaluation.metrics.resampling import BoundedEstimate

LOOPBACK = "over loopback, not the Network division"
NETWORK = "over a network, by rules of our own, not the Network division"
PERCENTILES = (50, 95, 99)
STEPS = {
    "queue": "queue_mean_ms",
    "input": "compute_input_mean_ms",
    "infer": "compute_infer_mean_ms",
    "output": "compute_output_mean_ms",
}
NAMES = {NULL_SERVER: "client's floor"}


@dataclass(frozen=True, slots=True)
class Alone:
    """What a server takes with one request under way: median seconds by model.

    `request_bytes` is the length of the longest request.
    """

    seconds: Mapping[str, float]
    request_bytes: int
    is_loopback: bool

    def sequential_qps(self, sample_models: Sequence[str]) -> float:
        """Return the queries/s of a mix that is asked one after the other."""
        return len(sample_models) / sum(self.seconds[model] for model in sample_models)


def remote_page(
    records: pd.DataFrame,
    slots: pd.DataFrame,
    counts: pd.DataFrame,
    alone: Mapping[str, Alone],
    satisfaction: float,
    generator: np.random.Generator,
) -> list[str]:
    """Return the lines of the page.

    `records` are those of the slots that count, `slots` a row a try, `counts` what `slot_counts` makes of
    both; `alone` is by server, the null server's among them.
    """
    where = LOOPBACK if all(one.is_loopback for one in alone.values()) else NETWORK
    workload = slots["workload"].iloc[0]
    return [
        f"# Servers under LoadGen: {workload}, {where}",
        "",
        "Each query is an HTTP request of the Open Inference Protocol. Its latency runs from its scheduled "
        "arrival to the last byte of the answer; what is not the right answer counts as a miss. Beside each "
        "figure is the client's floor: the same of a server that answers at once, and computes nothing.",
        "",
        "## One request at a time",
        "",
        *_alone_table(alone),
        "",
        f"## Queries/s at {satisfaction:.0%} on time",
        "",
        *_rates_table(counts, satisfaction, generator),
        "",
        "## By rate",
        "",
        *_latency_table(records, slots),
        *_counted(slots),
        *_misses(slots),
    ]


def _alone_table(alone: Mapping[str, Alone]) -> list[str]:
    floor = alone[NULL_SERVER]
    models = list(floor.seconds)
    header = ["server", *(f"{model}, ms (floor)" for model in models), "longest request, kB"]
    rows = [
        [
            server,
            *(f"{1e3 * one.seconds[model]:.2f} ({1e3 * floor.seconds[model]:.2f})" for model in models),
            f"{one.request_bytes / 1e3:.1f}",
        ]
        for server, one in alone.items()
        if server != NULL_SERVER
    ]
    return markdown_table(header, rows, numbers=True)


def _rates_table(counts: pd.DataFrame, satisfaction: float, generator: np.random.Generator) -> list[str]:
    (found,) = measured_workloads(counts, satisfaction, generator)
    rows = [
        [NAMES.get(server, server), *_told(number.estimate)] for server, number in found.crossings.items()
    ]
    return markdown_table(["server", "QPS", "95 % interval"], rows, numbers=True)


def _told(estimate: BoundedEstimate) -> list[str]:
    reach = estimate.found.reach
    if reach is Reach.UNKNOWN:
        return ["unknown", ""]
    sign = {Reach.BELOW: "at most ", Reach.ABOVE: "at least "}.get(reach, "")
    return [f"{sign}{estimate.found.value:.1f}", f"{estimate.low:.1f} to {estimate.high:.1f}"]


def _latency_table(records: pd.DataFrame, slots: pd.DataFrame) -> list[str]:
    counted = records[records["counted"]]
    kept = slots[slots["kept"].astype(bool)]
    header = ["QPS", "server", "queries", "on time", *(f"p{each}, ms (floor)" for each in PERCENTILES)]
    header += ["misses", "client late p99, ms", "client CPU, ms/query", "connections opened"]
    rows = []
    for qps, at_rate in counted.groupby("qps"):
        floor = _percentiles_ms(at_rate[at_rate["policy"] == NULL_SERVER])
        for server in dict.fromkeys(kept["policy"]):
            own = at_rate[at_rate["policy"] == server]
            runs = kept[(kept["policy"] == server) & (kept["qps"] == qps)]
            if own.empty or runs.empty:
                continue
            pairs = zip(_percentiles_ms(own), floor, strict=True)
            rows.append(
                [
                    f"{qps:.3g}",
                    NAMES.get(server, server),
                    len(own),
                    f"{own['on_time'].mean():.1%}",
                    *(f"{value:.2f} ({least:.2f})" for value, least in pairs),
                    int((own["ending"] != "served").sum()),
                    f"{1e3 * (runs['issue_delay_p99_s'] + runs['delivery_p99_s']).max():.2f}",
                    f"{1e3 * runs['client_cpu_s'].sum() / runs['queries'].sum():.2f}",
                    int(runs["connections_opened"].sum()),
                ]
            )
    return markdown_table(header, rows, numbers=True)


def _percentiles_ms(records: pd.DataFrame) -> list[float]:
    if records.empty:
        return [float("nan")] * len(PERCENTILES)
    found: list[float] = (1e3 * np.percentile(records["latency_s"], PERCENTILES)).tolist()
    return found


def _counted(slots: pd.DataFrame) -> list[str]:
    """Return what servers counted themselves in the slots that count, by model."""
    rows = []
    for (server, qps), runs in slots[slots["kept"].astype(bool)].groupby(["policy", "qps"], sort=False):
        counts = [json.loads(text) for text in runs["server_counts"]]
        for model in dict.fromkeys(model for one in counts for model in one):
            own = [one[model] for one in counts if model in one]
            means = [[one[step] for one in own if step in one] for step in STEPS.values()]
            told = [f"{sum(values) / len(values):.2f}" if values else "" for values in means]
            answered, failed = (sum(int(one[key]) for one in own) for key in ("success", "fail"))
            rows.append([f"{qps:.3g}", server, model, answered, failed, *told])
    if not rows:
        return []
    header = ["QPS", "server", "model", "answered", "failed", *(f"{step}, ms" for step in STEPS)]
    note = "Means of requests, by the servers' own clocks, from before each run to after it."
    return [
        "",
        "## What servers counted themselves",
        "",
        note,
        "",
        *markdown_table(header, rows, numbers=True),
    ]


def _misses(slots: pd.DataFrame) -> list[str]:
    told = slots[slots["miss_reasons"] != ""]
    rows: list[dict[Any, Any]] = told.to_dict("records")
    lines = [f"- {row['policy']}, {row['qps']:.3g} QPS: {row['miss_reasons']}" for row in rows]
    return ["", "## Why answers did not count", "", *dict.fromkeys(lines)] if lines else []
