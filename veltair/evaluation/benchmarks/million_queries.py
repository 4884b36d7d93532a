"""Very many queries through the study's path, in a process of its own so that its memory is its own.

Run as `python -m veltair.evaluation.benchmarks.million_queries` it reads an order from its input
and writes the outcome to its output, both as JSON.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from veltair.config import Config
from veltair.evaluation.experiment.scenario import make_scenario
from veltair.evaluation.simulation.run import SimulationSettings, policy_records
from veltair.evaluation.simulation.steps import simulation_settings
from veltair.machine.costs.folder import read_tables
from veltair.serving.policies.presets import make_policy

MODULE = "veltair.evaluation.benchmarks.million_queries"
SEED = 1
# Where Linux keeps the peak of a process's resident memory since it began to run its program. The figure of
# getrusage() will not do: it is inherited from the process that started this one.
STATUS, PEAK = Path("/proc/self/status"), "VmHWM:"


@dataclass(frozen=True, slots=True)
class MillionResult:
    """What a run took: wall seconds from the trace to the table of records, and peak resident memory."""

    queries: int
    seconds: float
    rss_mb: float
    satisfaction: float


def serve_in_fresh_process(
    config: Config, tables: Path, workload: str, policy: str, qps: float, queries: int
) -> MillionResult:
    """Return what that many queries take at a rate. Raises RuntimeError, with its last words, if it fails.

    `tables` is a folder of cost tables, `policy` an import path; its options are those of the preset `paper`.
    """
    order = order_of(config, tables, workload, policy, qps, queries)
    ended = subprocess.run(
        [sys.executable, "-m", MODULE], input=json.dumps(order), capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        said = ended.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"serving {queries} queries failed ({ended.returncode}): {' '.join(said)}")
    return MillionResult(**json.loads(ended.stdout.splitlines()[-1]))


def order_of(
    config: Config, tables: Path, workload: str, policy: str, qps: float, queries: int
) -> dict[str, Any]:
    """Return what another process needs to know of a configuration and a run, as values.

    The configuration may be a part of one, of which no other can be made.
    """
    return {
        "tables": str(tables.resolve()),
        "workload": workload,
        "weights": dict(config.workloads[workload]),
        "qos_s": {name: model.qos_ms / 1e3 for name, model in config.models.items()},
        "relax": config.qos.relax,
        "satisfaction": config.qos.satisfaction,
        "settings": asdict(replace(simulation_settings(config), queries=queries)),
        "policy": policy,
        "qps": qps,
    }


def serve_order(order: dict[str, Any]) -> MillionResult:
    """Serve an order in this process."""
    scenario = make_scenario(
        read_tables(Path(order["tables"])),
        order["qos_s"],
        order["relax"],
        order["workload"],
        order["weights"],
        order["satisfaction"],
    )
    settings = TypeAdapter(SimulationSettings).validate_python(order["settings"])
    start_s = time.perf_counter()
    records = policy_records(
        scenario,
        order["policy"],
        lambda context: make_policy(order["policy"], context, "paper", {}),
        settings,
        [order["qps"]],
        SEED,
    )
    satisfaction = float(records.loc[records["counted"], "on_time"].mean())
    return MillionResult(len(records), time.perf_counter() - start_s, peak_rss_mb(), satisfaction)


def peak_rss_mb() -> float:
    """Return the most memory that this process has had resident, in MiB."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(PEAK))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    print(json.dumps(asdict(serve_order(json.load(sys.stdin)))))
