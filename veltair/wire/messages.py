"""All messages but those of inference: what a server, its models and its repository say of themselves."""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from veltair.wire.datatypes import Buffer
from veltair.wire.errors import WireError
from veltair.wire.infer import Parameter, Tensor

ANY = -1  # an extent that a request chooses


class ServerMetadata(msgspec.Struct):
    """What a server is, and which extensions of the protocol it has."""

    name: str
    version: str
    extensions: list[str] = []


class TensorMetadata(msgspec.Struct):
    """An input or output of a model; an extent of -1 may be any."""

    name: str
    datatype: str
    shape: list[int]

    def admits(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of these."""
        return (
            tensor.datatype == self.datatype
            and len(tensor.shape) == len(self.shape)
            and all(extent in (ANY, own) for extent, own in zip(self.shape, tensor.shape, strict=True))
        )


class ModelMetadata(msgspec.Struct):
    """What a model takes and gives."""

    name: str
    versions: list[str] = []
    platform: str = ""
    inputs: list[TensorMetadata] = []
    outputs: list[TensorMetadata] = []


class ConfigTensor(msgspec.Struct):
    """An input or output in a model's configuration; `data_type` is TYPE_ and the datatype."""

    name: str
    data_type: str
    dims: list[int]

    @classmethod
    def of(cls, tensor: TensorMetadata) -> "ConfigTensor":
        """Return what a configuration says of a tensor."""
        kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
        return cls(tensor.name, f"TYPE_{kind}", list(tensor.shape))


class ModelConfig(msgspec.Struct):
    """The part of Triton's configuration of a model that its clients read."""

    name: str
    platform: str = ""
    backend: str = ""
    max_batch_size: int = 0
    input: list[ConfigTensor] = []
    output: list[ConfigTensor] = []


class Duration(msgspec.Struct):
    """How many times something was done, and its nanoseconds in all."""

    count: int = 0
    ns: int = 0


class InferStatistics(msgspec.Struct):
    """Requests by their ending, and the steps of those that were answered."""

    success: Duration = msgspec.field(default_factory=Duration)
    fail: Duration = msgspec.field(default_factory=Duration)
    queue: Duration = msgspec.field(default_factory=Duration)
    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)
    cache_hit: Duration = msgspec.field(default_factory=Duration)
    cache_miss: Duration = msgspec.field(default_factory=Duration)


class BatchStatistics(msgspec.Struct):
    """The same of one batch size."""

    batch_size: int = 1
    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)


class ModelStatistics(msgspec.Struct):
    """What became of the requests for a version of a model; `last_inference` is in ms since 1970."""

    name: str
    version: str = ""
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferStatistics = msgspec.field(default_factory=InferStatistics)
    batch_stats: list[BatchStatistics] = []


class Statistics(msgspec.Struct):
    """The statistics of several models."""

    model_stats: list[ModelStatistics]


class IndexRequest(msgspec.Struct):
    """Whether only models that are ready are to be listed."""

    ready: bool = False


class IndexEntry(msgspec.Struct):
    """A version of a model in the repository, and why it is in its state."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class RepositoryRequest(msgspec.Struct):
    """A request to load or unload a model; files come as `file:` and their path, in base64."""

    parameters: dict[str, Parameter] = {}


class Readiness(msgspec.Struct):
    """Whether a model is ready."""

    name: str
    ready: bool


_Message = TypeVar("_Message")


def encode(message: Any) -> bytes:
    """Return a message, or a list of messages, as JSON."""
    return msgspec.json.encode(message)


def decode(kind: type[_Message], body: Buffer) -> _Message:
    """Return a message of a kind; an empty body is one of defaults. Raises WireError if it is none."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"the JSON of the message: {error}") from None


def in_order(tensors: Sequence[Tensor], described: Sequence[TensorMetadata]) -> tuple[Tensor, ...]:
    """Return tensors in the order of what a model says of them.

    Raises WireError for one that is missing, is not the model's, or has another datatype or shape.
    """
    by_name = {one.name: one for one in tensors}
    if unknown := by_name.keys() - {one.name for one in described}:
        known = ", ".join(repr(one.name) for one in described)
        raise WireError(f"no tensor is called {sorted(unknown)[0]!r}; the model has {known}")
    found = []
    for one in described:
        if (tensor := by_name.get(one.name)) is None:
            raise WireError(f"tensor {one.name!r} is missing: {one.datatype} of shape {one.shape}")
        if not one.admits(tensor):
            raise WireError(
                f"tensor {one.name!r} is {tensor.datatype} of shape {list(tensor.shape)}; "
                f"the model has {one.datatype} of shape {one.shape}"
            )
        found.append(tensor)
    return tuple(found)
