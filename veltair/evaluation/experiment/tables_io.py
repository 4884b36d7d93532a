"""Tables as CSV that reads back equal, each with its provenance beside it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from veltair.config import Config
from veltair.provenance import Provenance, collect, write_result

TEXTS = (
    "invalid",
    "problem",
    "answer",
    "loadgen_reason",
    "client",
    "unit",
    "label",
    "relaxed_targets",
    "drop_late",
)


def write_csv(path: Path, table: pd.DataFrame, provenance: Provenance) -> None:
    """Write a table as CSV that reads back equal, with its provenance beside."""
    write_result(path, table.to_csv(index=False, lineterminator="\n").encode(), provenance)


def read_csv(path: Path) -> pd.DataFrame:
    """Return a table written by write_csv."""
    # Empty texts would be read as missing numbers.
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, "str"))
    return table.fillna(dict.fromkeys(TEXTS, ""))


def provenance_of(
    config: Config, inputs: Sequence[Path], seed: int | None = None, **details: str
) -> Provenance:
    """Return where a result of a run with this configuration and these files comes from."""
    return collect(config.model_dump(mode="json"), inputs=inputs, seed=seed, **details)
