import json
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.wire.errors import WireError
from veltair.wire.infer import Tensor
from veltair.wire.messages import (
    ConfigTensor,
    IndexEntry,
    IndexRequest,
    ModelConfig,
    ModelMetadata,
    ModelStatistics,
    RepositoryRequest,
    ServerMetadata,
    Statistics,
    TensorMetadata,
    decode,
    encode,
    in_order,
)

VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.builds(kind, **{name: values(each) for name, each in get_type_hints(kind).items()})
    arguments = [values(each) for each in get_args(kind)]
    if get_origin(kind) is list:
        return st.lists(arguments[0], max_size=2)
    if get_origin(kind) is dict:
        return st.dictionaries(*arguments, max_size=2)
    return st.one_of(arguments) if arguments else VALUES.get(kind, st.from_type(kind))


KINDS = (ServerMetadata, ModelMetadata, ModelConfig, Statistics, IndexRequest, IndexEntry, RepositoryRequest)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_messages_come_back_as_they_were(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(values(kind))

    assert decode(kind, encode(message)) == message


@pytest.mark.parametrize("kind", KINDS)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(kind: type[Any], body: bytes) -> None:
    try:
        decode(kind, body)
    except WireError as error:
        assert str(error)


def test_an_empty_body_asks_for_all() -> None:
    assert decode(IndexRequest, b"") == IndexRequest(ready=False)


def test_statistics_have_all_that_clients_read() -> None:
    (found,) = json.loads(encode(Statistics([ModelStatistics("m", "1")])))["model_stats"]

    assert found["inference_stats"]["compute_infer"] == {"count": 0, "ns": 0}
    assert {"name", "version", "last_inference", "inference_count", "execution_count", "batch_stats"} <= set(
        found
    )


def test_a_configuration_calls_bytes_strings() -> None:
    kinds = [ConfigTensor.of(TensorMetadata("x", kind, [-1])).data_type for kind in ("BYTES", "FP32")]

    assert kinds == ["TYPE_STRING", "TYPE_FP32"]


DESCRIBED = [TensorMetadata("x", "FP32", [-1, 2]), TensorMetadata("y", "BOOL", [])]
X, Y = Tensor("x", "FP32", (3, 2), bytes(24)), Tensor("y", "BOOL", (), bytes(1))


def test_tensors_come_in_the_order_of_the_model() -> None:
    assert in_order([Y, X], DESCRIBED) == (X, Y)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ([X], "'y' is missing"),
        ([X, Y, Tensor("z", "BOOL", (), bytes(1))], "'z'"),
        ([X, Tensor("y", "INT8", (), bytes(1))], "INT8"),
        ([Tensor("x", "FP32", (3, 1), bytes(12)), Y], r"\[3, 1\]"),
        ([Tensor("x", "FP32", (2,), bytes(8)), Y], r"\[2\]"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(tensors: list[Tensor], told: str) -> None:
    with pytest.raises(WireError, match=told):
        in_order(tensors, DESCRIBED)
