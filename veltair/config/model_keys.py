"""The keys of models: where each comes from, its target, and how many of its queries one network serves."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from veltair.config.section import Count, FilePath, ImportPath, Section, is_ascending, key

# A number, or several; whole ones stay whole.
Number = bool | int | float
ConstantValue = Number | Annotated[tuple[Number, ...], Field(min_length=1)]


class ServedModel(Section):
    """One model to serve: built by a function of Python or read from an ONNX file."""

    qos_ms: Annotated[float, key("latency target of a query, from its scheduled arrival", "ms", gt=0)]
    builder: Annotated[
        ImportPath | None, key("`module:function` that returns the model as an `onnx.ModelProto`")
    ] = None
    onnx: Annotated[FilePath | None, key("path of an ONNX file, from the folder of the run")] = None
    shapes: Annotated[
        dict[str, Annotated[tuple[Count, ...], Field(min_length=1)]],
        key("sizes of inputs whose dimensions are open, by the input's name, such as [1, 3, 224, 224]"),
    ] = Field(default={})
    constants: Annotated[
        dict[str, ConstantValue],
        key("values of inputs that are the same for all queries, by the input's name: a number or a list"),
    ] = Field(default={})
    batches: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...],
        key(
            "numbers of queries that a block can serve at once, ascending from 1; in simulated runs alone, "
            "where costs of those that are not built are described by those of one",
            "queries",
            min_length=1,
        ),
    ] = (1,)
    built_batches: Annotated[
        tuple[Annotated[int, Field(ge=2, le=64)], ...],
        key(
            "those of `batches` for which a network of its own is built and profiled, ascending: the first "
            "dimension of its inputs is the number of queries",
            "queries",
        ),
    ] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.builder is None) == (self.onnx is None):
            raise ValueError("give `builder` or `onnx`, exactly one of them (a null drops one)")
        if both := sorted(set(self.shapes) & set(self.constants)):
            raise ValueError(f"input {both[0]} has a shape and is a constant; give one of both")
        return self

    @model_validator(mode="after")
    def _batches_ascend(self) -> Self:
        if self.batches[0] != 1 or not is_ascending(self.batches):
            raise ValueError(f"batches {list(self.batches)} must ascend from 1, such as [1, 2, 4, 8]")
        if not (is_ascending(self.built_batches) and set(self.built_batches) <= set(self.batches)):
            raise ValueError(
                f"built_batches {list(self.built_batches)} must ascend and be among batches "
                f"{list(self.batches)}"
            )
        return self


def built_name(model: str, queries: int) -> str:
    """Return what the network is called that is built to serve several queries of a model at once."""
    return f"{model}-x{queries}"


def contradictions(models: Mapping[str, ServedModel], is_measured: bool, is_profiled: bool) -> Iterator[str]:
    """Yield what is wrong with batches, where anything is measured on the engine, or nothing is profiled."""
    for name, model in models.items():
        for queries in model.built_batches:
            if built_name(name, queries) in models:
                yield (
                    f"models.{built_name(name, queries)}: models.{name}.built_batches has {queries}, whose "
                    "network is called so; rename it"
                )
        if model.built_batches and not is_profiled:
            yield (
                f"models.{name}.built_batches: {list(model.built_batches)}, but profile.costs is 'shipped', "
                "so nothing is built; set `profile.costs: measured` or leave it empty"
            )
        if is_measured and model.batches != (1,):
            yield (
                f"models.{name}.batches: {list(model.batches)}, but measured.enabled is true, and the "
                "engine serves one query with a block; set `measured.enabled: false` or leave "
                "`batches` at [1]"
            )
