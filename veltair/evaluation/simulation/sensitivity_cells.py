"""The cells of the sensitivity: one a value of an assumption and a workload that it is varied for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from veltair.config import Config, ConfigError
from veltair.config.study_keys import MEASURED, Variation
from veltair.config.vary import assume, is_baseline
from veltair.evaluation.experiment.layout import BASELINE, Layout
from veltair.machine.costs.block_costs import recorded_block_costs

# Between an assumption and a workload other than the study's; no name may hold it.
AT = "@"


class Cell(NamedTuple):
    """An assumption of the configuration, the index of its value, and the workload."""

    assumption: str
    value_index: int
    workload: str


def sensitivity_cells(config: Config) -> Mapping[Cell, Path]:
    """Return the file of each cell; values that the run has anyway share one file a workload.

    The folder of another workload than the study's is named `ASSUMPTION@WORKLOAD`. Raises ConfigError for a
    workload that is not in the configuration.
    """
    cells: dict[Cell, Path] = {}
    for (name, index), path in Layout(config).sensitivity().items():
        for workload in config.sensitivity[name].workloads or (config.study.workload,):
            if workload not in (known := config.mixes):
                raise ConfigError(
                    f"sensitivity.{name}.workloads: {workload!r} is not in `workloads` "
                    f"({', '.join(known)}); add it there or correct it"
                )
            folder = path.parent
            if workload != config.study.workload:
                folder = folder.with_name(f"{folder.name}{AT}{workload}")
            cells[Cell(name, index, workload)] = folder / path.name
    return cells


def cell_config(config: Config, folder: str, index: int) -> tuple[Config, tuple[str, ...]]:
    """Return the configuration that a cell is simulated with, and its policies.

    `folder` and `index` are of the cell's path. The assumption `BASELINE` is none: the run as it is.
    """
    name, config = at_workload(config, folder)
    gridded = study_grid(config)
    if name == BASELINE:
        return gridded, config.study.policies
    return assume(gridded, name, index), config.sensitivity[name].policies or config.study.policies


def study_grid(config: Config) -> Config:
    """Return the configuration with the study's own grid in place of that of the policies' comparison."""
    study = config.study
    asked = {"queries": study.queries, "seeds": study.seeds, "resolution": study.resolution}
    given = {name: value for name, value in asked.items() if value is not None}
    return config.model_copy(update={"simulated": config.simulated.model_copy(update=given)})


def cell_columns(config: Config) -> list[dict[str, Any]]:
    """Return of each value of each assumption: its cell, which policies count, and what the table says of it.

    `path` is the cell's. The `columns` are `assumption` and `unit` as printed, `kind` (number or category),
    `value` (of a category its place), `label`, `is_default` and `plausible`.
    """
    return [
        {
            "path": str(path),
            "policies": list(config.sensitivity[cell.assumption].policies or config.study.policies),
            "columns": _columns(config, cell),
        }
        for cell, path in sensitivity_cells(config).items()
    ]


def _columns(config: Config, cell: Cell) -> dict[str, Any]:
    variation, index = config.sensitivity[cell.assumption], cell.value_index
    value = variation.values[index]
    return {
        "assumption": variation.title,
        "unit": variation.unit,
        "kind": "number" if variation.is_numeric else "category",
        "value": _number(variation, value) if variation.is_numeric else float(index),
        "label": variation.labels[index] if variation.labels else str(value),
        "is_default": is_baseline(config, cell.assumption, index),
        "plausible": variation.plausible is None or value in variation.plausible,
    }


def _number(variation: Variation, value: object) -> float:
    """Return where a value is on its axis: a cost of blocks that was measured, at what was recorded of it."""
    if value != MEASURED:
        return float(str(value))
    name = variation.key.rpartition(".")[2].removesuffix("_cost_us")
    return 1e6 * float(getattr(recorded_block_costs(), f"{name}_s"))


def at_workload(config: Config, folder: str) -> tuple[str, Config]:
    """Return the assumption that a folder of cells is of, and the configuration with its workload.

    The opposite of how `sensitivity_cells` names folders.
    """
    name, separator, workload = folder.partition(AT)
    if not separator:
        return name, config
    study = config.study.model_copy(update={"workload": workload})
    return name, config.model_copy(update={"study": study})
