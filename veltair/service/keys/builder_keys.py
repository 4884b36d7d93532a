"""The keys of the service's builder: what an uploaded model may be, and what building it may take."""

from typing import Annotated

from veltair.config.section import Section, key


class BoundsKeys(Section):
    """What an uploaded model may be at most, told before anything of it is computed."""

    nodes: Annotated[int, key("nodes of its graph", "nodes", ge=1)] = 20_000
    tensor_elements: Annotated[int, key("elements of one tensor", "elements", ge=1)] = 200_000_000
    activation_mb: Annotated[float, key("bytes of all that its nodes make in one query", "MB", gt=0)] = (
        8_000.0
    )
    gmacs: Annotated[float, key("multiply-accumulates of one query, in 10⁹", "GMACs", gt=0)] = 2_000.0
    metadata_kb: Annotated[
        float, key("text that says something about it: documentation, properties", "kB", ge=0)
    ] = 256.0


class BuilderKeys(Section):
    """What the process that builds a model may use; it is stopped when it uses more."""

    memory_mb: Annotated[float, key("its address space", "MB", gt=0)] = 12_000.0
    seconds: Annotated[float, key("its time by the clock", "s", gt=0)] = 900.0
    cpu_seconds: Annotated[float, key("its time on all cores together", "s", gt=0)] = 1_800.0
    file_mb: Annotated[float, key("the largest file that it writes", "MB", gt=0)] = 4_000.0
    processes: Annotated[int, key("its threads and those of the linkers that it starts", ge=8)] = 256
    open_files: Annotated[int, key("files that it holds open at once", ge=32)] = 512
    repeats: Annotated[int, key("how often each version is profiled", ge=1)] = 5
    bounds: Annotated[BoundsKeys, key("what a model may be at most")] = BoundsKeys()
