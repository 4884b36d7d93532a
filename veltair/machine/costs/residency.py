"""Cost tables and residency: what crosses cache groups, tables without it, and what to say of these."""

from collections.abc import Callable
from dataclasses import replace

from veltair.compiler.footprint.residency import Residency
from veltair.compiler.footprint.traffic import Tiling, crossing_bytes
from veltair.machine.costs.cost_model import block_l3_bytes
from veltair.machine.costs.folder import Tables


def without_residency(tables: Tables) -> Tables:
    """Return tables in which each layer is charged as if it ran alone."""
    return _with_residency(tables, lambda _: None)


def with_cold_weights(tables: Tables) -> Tables:
    """Return tables in which no layer finds anything of an older query."""
    return _with_residency(tables, lambda one: replace(one, old_bytes=(0,) * len(one.old_bytes)))


def crossing_bytes_by_cores(tables: Tables) -> dict[str, dict[int, float]]:
    """Return, by model and core count, the bytes of a query alone that cross the links between cache groups.

    All layers run in their solo versions. These bytes load no DRAM; that they load links is not charged.
    """
    machine, groups = tables.machine, len(tables.machine.cache_groups)
    return {
        model: {
            cores: sum(
                crossing_bytes(tilings[version], block_l3_bytes(machine, cores), min(cores, groups))
                for tilings, version in zip(layers, tables.costs.model(model).solo.tolist(), strict=True)
            )
            for cores in machine.core_counts
        }
        for model, layers in tables.tilings.items()
    }


def residency_notes(host: Tables) -> list[str]:
    """Return what a reader must know of tables that were profiled by an earlier program."""
    if host.is_resident:
        return []
    return [
        f"the tables of {host.machine.name} do not say what layers find in their networks, so each is "
        "charged as if it ran alone, as with `simulated.residency: false`; rerun rule `profile`"
    ]


def _with_residency(tables: Tables, change: Callable[[Residency], Residency | None]) -> Tables:
    def changed(tiling: Tiling) -> Tiling:
        known = tiling.residency
        return tiling if known is None else replace(tiling, residency=change(known))

    tilings = {
        model: tuple(tuple(map(changed, versions)) for versions in layers)
        for model, layers in tables.tilings.items()
    }
    return replace(tables, tilings=tilings)
