"""The steps of the study of versions, one a rule: its tables, and its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from veltair.compiler.build.build import ModelPlan, read_plan
from veltair.compiler.select.core_counts import doubling
from veltair.compiler.select.select import Selection, rounds_costs
from veltair.compiler.select.shipped import AVX2, SHIPPED, serve
from veltair.compiler.select.store import FILES, StoreError, choose, read_info
from veltair.evaluation.figures.save import save
from veltair.evaluation.figures.version_plots import saturation_figure, scatter_figure, sets_figure
from veltair.evaluation.versions.version_study import (
    CostedMachine,
    measured_saturation,
    modelled_saturation,
    scatter,
    version_sets,
)
from veltair.machine.costs.candidate_costs import modelled_costs
from veltair.machine.costs.folder import read_tables
from veltair.machine.topology.described import described
from veltair.provenance import write_atomically

SATURATION_CORES = (1, 4, 16, 64)
_FIGURES = {"saturation": saturation_figure, "scatter": scatter_figure, "sets": sets_figure}


def write_version_tables(
    builds: Mapping[str, Path],
    stores: Sequence[Path],
    costs: Path,
    selection: Selection,
    machines: Sequence[str],
    folder: Path,
    root: Path = SHIPPED,
) -> None:
    """Write the tables of the saturation, of one layer's candidates a model, and of what machines choose.

    `builds` are the folders of built models, `costs` that of this machine's tables, `machines` the described
    ones, `root` holds what is shipped. Raises LookupError or StoreError for what is
    not there.
    """
    plans = {model: read_plan(path) for model, path in builds.items()}
    structures = list(dict.fromkeys(layer.structure for plan in plans.values() for layer in plan.layers))
    served = serve(stores, structures)
    if served.missing:
        raise StoreError(
            f"no store has candidates of {', '.join(served.missing)} any more; rerun rule `build`"
        )
    candidates = served.candidates
    host = read_tables(costs)
    here = rounds_costs(doubling(host.machine.cores))
    largest = rounds_costs(doubling(max(SATURATION_CORES)))
    judged, narrow = CostedMachine(host.machine.name, here), described_stores(stores, root)
    tables = {
        "saturation": pd.concat(
            [
                modelled_saturation(plans, candidates, selection, largest, SATURATION_CORES),
                measured_saturation(host.costs, host.tilings),
            ]
        ),
        "scatter": scatter(plans, candidates, choose(candidates, selection, here), selection, here),
        "sets": _sets(plans, narrow, selection, judged, machines),
    }
    write_atomically(
        {
            folder / f"{name}.csv": table.to_csv(index=False, lineterminator="\n").encode()
            for name, table in tables.items()
        }
    )


def draw_version_figures(tables: Path, folder: Path, formats: Sequence[str]) -> None:
    """Draw the figures of the tables in a folder. Raises ValueError for an empty table."""
    for name, draw in _FIGURES.items():
        save(draw(pd.read_csv(tables / f"{name}.csv")), folder / f"versions_{name}", formats)


def described_stores(stores: Sequence[Path], root: Path = SHIPPED) -> list[Path]:
    """Return the stores that a described machine can run: the shipped one for AVX2, then those of the run.

    Every machine described here has AVX2; whether it has AVX-512 its description does not tell. What a run
    found for layers that are not shipped is all that there is of them.
    """
    narrow = root / AVX2
    if not all((narrow / name).is_file() for name in FILES):
        return list(stores)
    return [narrow, *(store for store in stores if store.parent != root)]


def _sets(
    plans: Mapping[str, ModelPlan],
    stores: Sequence[Path],
    selection: Selection,
    here: CostedMachine,
    machines: Sequence[str],
) -> pd.DataFrame:
    structures = {layer.structure for plan in plans.values() for layer in plan.layers}
    candidates = serve(stores, sorted(structures)).candidates
    peak_flops = read_info(stores[0]).core_peak_flops
    theirs = [CostedMachine(name, modelled_costs(described(name), peak_flops)) for name in machines]
    return version_sets(plans, candidates, selection, [here, *theirs])
