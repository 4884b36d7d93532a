"""The keys of the compiler: how versions are searched, chosen, built and checked."""

from typing import Annotated, Literal, Self

from pydantic import model_validator

from veltair.config.section import SEED_MAX, Section, key

# Apart, for in the class below `key` is a key.
_ServersKey = Annotated[str | None, key("key under which the measuring machines registered", min_length=1)]


class Rpc(Section):
    """TVM's RPC tracker, which lends the machines that measure."""

    host: Annotated[str | None, key("name or address of the tracker", min_length=1)] = None
    port: Annotated[int, key("port of the tracker", ge=1, le=65535)] = 9190
    sessions: Annotated[int, key("machines that measure at once", "machines", ge=1)] = 1
    key: _ServersKey = None


class Search(Section):
    """The search for candidates: one pass per unique layer."""

    reuse: Annotated[
        bool, key("take the candidates shipped in `veltair/data`; false searches all layers of all models")
    ] = True
    missing: Annotated[
        Literal["search", "own", "error"],
        key(
            "what to do about layers without shipped candidates: `search` these alone, which takes "
            "long; serve them at once from a few schedules of our `own`; or end (`error`)"
        ),
    ] = "error"
    cpu: Annotated[
        str,
        key("CPU to search for, by LLVM's name; `auto`: this one; `x86-64-v3`: any with AVX2", min_length=1),
    ] = "auto"
    trials: Annotated[int, key("candidates to measure for each unique layer", "candidates", ge=1)] = 128
    cores: Annotated[
        int,
        key("cores of the largest machine that the candidates are for: bounds parallelism", "cores", ge=1),
    ] = 64
    population: Annotated[
        int, key("candidates of one generation of the evolutionary search", "candidates", ge=2)
    ] = 128
    generations: Annotated[int, key("generations between two measured batches", "generations", ge=1)] = 3
    batch: Annotated[
        int, key("candidates measured between two updates of the cost model", "candidates", ge=1)
    ] = 32
    repeats: Annotated[
        int, key("cold runs of a candidate, at most; slow ones get fewer, at least 3", "runs", ge=1)
    ] = 10
    seed: Annotated[int, key("seed of the search", ge=1, le=SEED_MAX)] = 1
    runner: Annotated[
        Literal["local", "rpc"], key("where candidates are measured: here, or where an RPC tracker says")
    ] = "local"
    rpc: Annotated[Rpc, key("the RPC tracker")] = Rpc()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.runner == "rpc" and not (self.rpc.host and self.rpc.key):
            raise ValueError("runner is rpc, but rpc.host or rpc.key is not given; give both")
        if self.population < self.batch:
            raise ValueError(
                f"population {self.population} is below batch {self.batch}; a batch is picked from the "
                "population: give a larger population or a smaller batch"
            )
        return self


class Select(Section):
    """The choice of versions among the candidates."""

    slack: Annotated[
        float,
        key(
            "candidates slower than this multiple of the best at every core count are dropped",
            "times the best",
            ge=1,
        ),
    ] = 1.5
    count: Annotated[int, key("versions to keep for each layer, at most", "versions", ge=1, le=8)] = 5
    metric: Annotated[
        Literal["blocking", "traffic"],
        key(
            "locality of a candidate: the bytes of a parallel iteration (more is more local), or the bytes "
            "fetched into an L2 of 512 KiB, estimated (less is)"
        ),
    ] = "blocking"


class Build(Section):
    """The compilation of versions."""

    cpu: Annotated[
        Literal["auto", "x86-64-v3", "x86-64-v4"],
        key(
            "CPU that kernels are built for, which this one must be able to run; `auto`: this one; "
            "`x86-64-v3`: any with AVX2, `x86-64-v4`: any with AVX-512. Shipped candidates are those it runs"
        ),
    ] = "auto"


class Oracle(Section):
    """The comparison of outputs with ONNX Runtime."""

    tolerance: Annotated[
        float, key("largest relative error of outputs that passes", "fraction", gt=0, lt=1)
    ] = 0.0001
