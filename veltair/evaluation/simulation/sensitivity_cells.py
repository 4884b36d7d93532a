"""The cells of the sensitivity: one a value of an assumption and a workload that it is varied for."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from veltair.config import Config, ConfigError
from veltair.evaluation.experiment.layout import Layout

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
            if workload not in config.workloads:
                raise ConfigError(
                    f"sensitivity.{name}.workloads: {workload!r} is not in `workloads` "
                    f"({', '.join(config.workloads)}); add it there or correct it"
                )
            folder = path.parent
            if workload != config.study.workload:
                folder = folder.with_name(f"{folder.name}{AT}{workload}")
            cells[Cell(name, index, workload)] = folder / path.name
    return cells


def at_workload(config: Config, folder: str) -> tuple[str, Config]:
    """Return the assumption that a folder of cells is of, and the configuration with its workload.

    The opposite of how `sensitivity_cells` names folders.
    """
    name, separator, workload = folder.partition(AT)
    if not separator:
        return name, config
    study = config.study.model_copy(update={"workload": workload})
    return name, config.model_copy(update={"study": study})
