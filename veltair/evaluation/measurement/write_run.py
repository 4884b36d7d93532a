"""The records of one measured run as a file, once they add up to LoadGen's own log."""

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from veltair.evaluation.loadgen.logs import MIXED, LoadGenResult, check_latencies
from veltair.evaluation.metrics.records import check_one_run, to_parquet
from veltair.provenance import write_atomically

QUERIES = "queries.parquet"  # in the folder of each run


def write_run(frame: pd.DataFrame, verdicts: Mapping[str, LoadGenResult], path: Path) -> None:
    """Write the records of one run of LoadGen as Parquet, once they add up to its detail log.

    `verdicts` are those of the run's summary. Count, mean, p95 and number of late queries of each tenant are
    those of the bytes to be written, read back. Raises LoadGenError, which names the quantity and both
    values, where one differs, and ValueError on several runs, missing columns or a model without a verdict;
    then no file is written.
    """
    content = to_parquet(frame)
    written = pd.read_parquet(io.BytesIO(content))
    check_one_run(written)
    unjudged = [] if MIXED in verdicts else sorted({*written["model"]}.difference(verdicts))
    if unjudged:
        raise ValueError(f"no verdict on {', '.join(unjudged)}; give the verdicts of the run's own summary")
    for tenant, verdict in verdicts.items():
        own = written if tenant == MIXED else written[written["model"] == tenant]
        check_latencies(own["latency_s"].to_numpy(), verdict, f"{path}, tenant {tenant}")
    write_atomically({path: content})
