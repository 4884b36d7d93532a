"""How far the cost model is off times measured on this machine, held out, beside a null model.

Pure: tables in, a table out.
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from veltair.machine.costs.cost_model_fit import ScaledLayer, fit_cost_model, modelled_seconds
from veltair.machine.costs.derivation import cells
from veltair.machine.costs.folder import Tables

COLUMNS = [
    *("model", "layer", "version", "cores", "fold", "exponent", "fork_s"),
    *("measured_s", "modelled_s", "null_s", "error", "null_error"),
]


def cost_errors(tables: Tables) -> pd.DataFrame:
    """Return a row for each version of a layer and each core count that was measured alone: `COLUMNS`.

    The cost model is fitted and tested on different layers: those of every second structure, in the order of
    the models, are one `fold`, all others the other, and the exponent and the cost of a fork are fitted on
    the fold that a layer is not of. Layers of all sizes are in both: large ones alone would not
    tell what a fork costs, nor small ones how memory combines.

    A version's own time on one core is an input, so at 1 core nothing is modelled and both errors are 0 up
    to rounding: `cost_error_median` leaves it out. `null_s` is the time on one core ÷ cores, without memory
    and rounds. Errors are relative to the measured time, not negative. Raises LookupError for tables
    without times on one core.
    """
    measured = cells(tables)
    rows = [
        (
            *(cell.model, cell.layer, cell.version, cell.cores, fold, fit.exponent),
            fit.fork_s.get(cell.cores, 0.0),
            *(cell.seconds, modelled_s, null_s),
            *(abs(modelled_s / cell.seconds - 1.0), abs(null_s / cell.seconds - 1.0)),
        )
        for fold, tested, fitted in _folds(tables, measured)
        for fit in [fit_cost_model(fitted, tables.machine)]
        for cell in tested
        for modelled_s in [modelled_seconds(cell, tables.machine, fit)]
        for null_s in [cell.solo_s / cell.cores]
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def cost_error_median(errors: pd.DataFrame, column: str = "error") -> float:
    """Return the median of a column of errors over the cells of several cores; NaN if there are none."""
    return float(errors.loc[errors["cores"] > 1, column].median())


def _folds(
    tables: Tables, measured: Sequence[ScaledLayer]
) -> Iterator[tuple[str, list[ScaledLayer], list[ScaledLayer]]]:
    """Yield the name of each fold, its cells, and all others."""
    structures = dict.fromkeys(layer.structure for layers in tables.layers.values() for layer in layers)
    odd = {structure: index % 2 == 1 for index, structure in enumerate(structures)}
    folds: tuple[list[ScaledLayer], list[ScaledLayer]] = ([], [])
    for cell in measured:
        folds[odd[tables.layers[cell.model][cell.layer].structure]].append(cell)
    for index, name in enumerate(("even structures", "odd structures")):
        yield name, folds[index], folds[1 - index]
