"""Which costs stand for several queries at once: those of a network that was built, else described ones."""

from collections.abc import Mapping

from veltair.config import Config
from veltair.config.model_keys import built_name
from veltair.machine.costs.batched import batched_name, with_batches
from veltair.machine.costs.folder import Tables


def batched_tables(
    config: Config, tables: Tables, workload: str
) -> tuple[Tables, Mapping[str, Mapping[int, str]]]:
    """Return tables with all batches of a workload's models, and their names there, as in `Context.batches`.

    Raises LookupError where a network has other layers than the model, or tables do not say what is needed
    to describe one.
    """
    described: dict[str, tuple[int, ...]] = {}
    names: dict[str, dict[int, str]] = {}
    for model in config.models_of(workload):
        several = config.models[model].batches[1:]
        built = {b: built_name(model, b) for b in several if b in config.models[model].built_batches}
        for queries, name in built.items():
            _check_layers(tables, model, name, queries)
        described[model] = (1, *(b for b in several if b not in built))
        if several:
            names[model] = {b: built.get(b, batched_name(model, b)) for b in several}
    return with_batches(tables, described), names


def _check_layers(tables: Tables, model: str, name: str, queries: int) -> None:
    """Raise LookupError unless a network for several queries was profiled, with the layers of the model."""
    where = f"models.{model}.built_batches: {queries}"
    if name not in tables.layers:
        raise LookupError(f"{where} is not in the tables of {tables.machine.name}; rerun rule `profile`")
    one, all_of_them = tables.layers[model], tables.layers[name]
    if [queries * layer.macs for layer in one] != [layer.macs for layer in all_of_them]:
        raise LookupError(
            f"{where} was fused into {len(all_of_them)} layers that are not {queries} times the "
            f"{len(one)} of one query; take it out of `built_batches`, and its costs are described"
        )
