import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from veltair.wire.datatypes import DTYPES, join_bytes, split_bytes
from veltair.wire.errors import UnsupportedError, WireError, error_body, error_text
from veltair.wire.infer import (
    LENGTH_HEADER,
    InferRequest,
    InferResponse,
    Tensor,
    json_bytes,
    read_request,
    read_response,
    write_request,
    write_response,
)

FLOATS = {"allow_nan": False, "allow_infinity": False}


@st.composite
def tensors(draw: st.DrawFn, name: str, finite: bool) -> Tensor:
    datatype = draw(st.sampled_from((*DTYPES, "BYTES")))
    shape = draw(array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if datatype == "BYTES":
        texts = draw(st.lists(st.text(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return Tensor(name, datatype, shape, join_bytes([text.encode() for text in texts]))
    elements = FLOATS if finite and datatype.startswith("FP") else {}
    values = draw(arrays(DTYPES[datatype], shape, elements=elements))
    return Tensor(name, datatype, shape, values.tobytes())


def lists(finite: bool) -> Any:
    return st.integers(0, 3).flatmap(
        lambda count: st.tuples(*(tensors(f"tensor {number}", finite) for number in range(count)))
    )


def with_bytes(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(Tensor(one.name, one.datatype, one.shape, bytes(one.data)) for one in given)


@given(lists(finite=False), st.text(), st.booleans())
def test_a_binary_request_comes_back_as_it_was(inputs: Any, name: str, all_binary: bool) -> None:
    asked = InferRequest(inputs, name, ("a", "b"), frozenset("b"), all_binary, {"timeout": 1500, "x": "y"})

    message = write_request(asked)
    found = read_request(message.body, message.json_bytes)

    assert with_bytes(found.inputs) == inputs
    assert (found.id, found.outputs, found.all_binary) == (name, ("a", "b"), all_binary)
    assert [found.is_binary(output) for output in "ab"] == [False, True]
    assert (found.timeout_s, found.priority) == (0.0015, 0)


@given(lists(finite=True))
def test_a_request_in_json_comes_back_as_it_was(inputs: Any) -> None:
    message = write_request(InferRequest(inputs), binary=False)

    assert message.json_bytes is None
    assert with_bytes(read_request(message.body).inputs) == inputs


@given(lists(finite=True), st.sets(st.integers(0, 2)))
def test_an_answer_comes_back_as_it_was_whatever_is_binary(outputs: Any, chosen: set[int]) -> None:
    answer = InferResponse("model", outputs, "3", "7", {"late": True})

    message = write_response(answer, {f"tensor {number}" for number in chosen})
    found = read_response(message.body, message.json_bytes)

    assert with_bytes(found.outputs) == outputs
    assert (found.model_name, found.model_version, found.id) == ("model", "3", "7")
    assert found.parameters == {"late": True}


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 300)))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(body: bytes, length: int | None) -> None:
    for read in (read_request, read_response):
        try:
            read(body, length)
        except WireError as error:
            assert str(error)


@given(tensors("x", finite=False), st.data())
def test_a_cut_or_lengthened_body_is_refused(tensor: Tensor, data: st.DataObject) -> None:
    message = write_request(InferRequest((tensor,)))
    body = message.body
    cut = data.draw(st.integers(0, len(body) - 1))

    for wrong in (body[:cut], body + b"x"):
        with pytest.raises(WireError):
            read_request(wrong, message.json_bytes)


def body_of(data: Any, datatype: str = "FP32", shape: tuple[int, ...] = (2, 2), **more: Any) -> bytes:
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": data, **more}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4]]])
def test_json_data_are_flat_or_nested(data: Any) -> None:
    (found,) = read_request(body_of(data)).inputs

    assert np.frombuffer(found.data, "<f4").tolist() == [1, 2, 3, 4]


def test_nested_text_is_read() -> None:
    (found,) = read_request(body_of([["a", "ä"], ["", "b"]], "BYTES")).inputs

    assert split_bytes("x", found.data) == [b"a", "ä".encode(), b"", b"b"]


@pytest.mark.parametrize(
    ("data", "datatype", "told"),
    [
        ([1, 2, 3], "FP32", "shape"),
        ([1, 2, 3, 4, 5], "FP32", "shape"),
        ([[1, 2], [3]], "FP32", "ragged"),
        ([[1, 2, 3], [4]], "BYTES", "BYTES"),
        ([["a", "b", "c"], ["d"]], "BYTES", "ragged"),
        ([[[1], [2]], [[3], [4]]], "FP32", "nested 3 deep"),
        ([[1, 2, 3, 4]], "FP32", "shape"),
        ([[["a", "b", "c", "d"]]], "BYTES", "nested 3 deep"),
        ([["a", "b", "c", "d"]], "BYTES", "shape"),
        (["a"], "BYTES", "shape"),
        ([1, 2, 3, 1e39], "FP32", "range"),
        ([1, 2, 3, 70000.0], "FP16", "range"),
        ([1, 2, 3, float("nan")], "FP32", "JSON"),
        ([1, 2, 3, float("inf")], "FP32", "JSON"),
        ([1, 2, 3, None], "FP32", "FP32"),
        ([1, 2, 3, "4"], "FP32", "FP32"),
        ([1, 2, 3, True], "INT32", "INT32"),
        ([1, 2, 3, 0], "BOOL", "BOOL"),
        ([1, 2, 3, 4.5], "INT32", "INT32"),
        ([1, 2, 3, 256], "UINT8", "range"),
        ([1, 2, 3, -1], "UINT64", "range"),
        ([1, 2, 3, 2**64], "INT64", "range"),
        ([1, 2, 3, 4], "BF16", "binary"),
        ([1, 2, 3, 4], "FP31", "FP31"),
        (1, "FP32", "nested 0 deep"),
        ({}, "FP32", "nested 0 deep"),
        ("1234", "BYTES", "nested 0 deep"),
    ],
)
def test_json_data_that_are_not_as_they_say_are_refused(data: Any, datatype: str, told: str) -> None:
    with pytest.raises(WireError, match=told):
        read_request(body_of(data, datatype))


@pytest.mark.parametrize("shape", [(-1, 2), (2,) * 33, (2.5,), ("2",), None])
def test_shapes_that_no_tensor_has_are_refused(shape: Any) -> None:
    with pytest.raises(WireError):
        read_request(body_of([1], shape=shape))


def test_a_number_beyond_all_floats_is_refused() -> None:
    with pytest.raises(WireError):
        read_request(body_of([1, 2, 3, 4], "FP64").replace(b"[1,", b"[1e999,").replace(b"[1, ", b"[1e999, "))


@pytest.mark.parametrize("size", [-1, 15, 17, 1 << 62, True, "16", 16.0])
def test_binary_sizes_that_do_not_fit_are_refused(size: Any) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [tensor]}).encode()

    with pytest.raises(WireError):
        read_request(header + bytes(16), len(header))


@pytest.mark.parametrize("data", [b"\x05\0\0\0abc", b"\0\0\0", b"", b"\0\0\0\0" * 2])
def test_elements_of_bytes_end_where_they_say(data: bytes) -> None:
    size = {"binary_data_size": len(data)}
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "parameters": size}
    header = json.dumps({"inputs": [tensor]}).encode()

    with pytest.raises(WireError):
        read_request(header + data, len(header))


@pytest.mark.parametrize(
    "changed",
    [
        {"parameters": {"binary_data_size": 16}},
        {"data": None},
        {"parameters": {"shared_memory_region": "r"}},
        {"name": 3},
        {"parameters": {"p": [1]}},
    ],
)
def test_tensors_that_contradict_themselves_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        read_request(body_of(**({"data": [1, 2, 3, 4]} | changed)))


def test_the_same_name_twice_is_refused() -> None:
    twice = json.loads(body_of([1, 2, 3, 4]))
    twice["inputs"] *= 2

    with pytest.raises(WireError, match="twice"):
        read_request(json.dumps(twice).encode())


def test_what_is_not_offered_is_refused_as_such() -> None:
    asked = json.loads(body_of([1, 2, 3, 4]))
    asked["outputs"] = [{"name": "y", "parameters": {"classification": 3}}]

    with pytest.raises(UnsupportedError):
        read_request(json.dumps(asked).encode())


@pytest.mark.parametrize("outputs", [None, []])
def test_who_names_no_output_wants_all(outputs: Any) -> None:
    asked = json.loads(body_of([1, 2, 3, 4])) | {
        "outputs": outputs,
        "parameters": {"binary_data_output": True},
    }

    found = read_request(json.dumps(asked).encode())

    assert found.wants("y") and found.is_binary("y")


def test_an_output_may_differ_from_what_is_said_for_all() -> None:
    asked = json.loads(body_of([1, 2, 3, 4])) | {"parameters": {"binary_data_output": True}}
    asked["outputs"] = [{"name": "y"}, {"name": "z", "parameters": {"binary_data": False}}]

    found = read_request(json.dumps(asked).encode())

    assert (found.is_binary("y"), found.is_binary("z"), found.wants("w")) == (True, False, False)


@pytest.mark.parametrize("value", [-1, 1.5, "3", True])
def test_a_timeout_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(WireError, match="timeout"):
        _ = InferRequest((), parameters={"timeout": value}).timeout_s


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_never_says_what_is_not_finite(value: float) -> None:
    answer = InferResponse("m", (Tensor("y", "FP32", (1,), np.float32(value).tobytes()),))

    with pytest.raises(WireError, match="binary_data"):
        write_response(answer)
    assert write_response(answer, {"y"}).json_bytes


def test_a_tensor_that_lies_about_its_size_is_not_written() -> None:
    with pytest.raises(WireError, match="8 bytes"):
        write_request(InferRequest((Tensor("x", "FP32", (3,), bytes(8)),)))


def test_binary_data_are_views_of_the_body() -> None:
    message = write_request(InferRequest((Tensor("x", "FP32", (2,), bytes(8)),)))
    body = bytearray(message.body)

    (found,) = read_request(body, message.json_bytes).inputs
    body[-8:] = bytes(range(8))

    assert bytes(found.data) == bytes(range(8))


def test_headers_say_what_the_body_is() -> None:
    request = InferRequest((Tensor("x", "FP32", (2,), bytes(8)),))
    binary, text = write_request(request), write_request(request, binary=False)

    assert binary.headers[LENGTH_HEADER] == str(len(binary.body) - 8)
    assert binary.nbytes == len(binary.body)
    assert LENGTH_HEADER not in text.headers


@pytest.mark.parametrize(("header", "length"), [(None, None), ("12", 12), (b" 0 ", 0)])
def test_the_length_header_is_read(header: Any, length: int | None) -> None:
    assert json_bytes(header) == length


@pytest.mark.parametrize("header", ["", "-1", "+1", "1_0", "1.0", "²", "9" * 5000, b"\xff"])
def test_a_length_that_is_none_is_refused(header: Any) -> None:
    with pytest.raises(WireError, match=LENGTH_HEADER):
        json_bytes(header)


def test_deeply_nested_json_is_refused() -> None:
    for text in (b"[" * 100_000, b'{"inputs":' * 100_000, body_of([1]).replace(b"[1]", b"[" * 100_000)):
        with pytest.raises(WireError):
            read_request(text)


def test_errors_come_back_as_they_were() -> None:
    assert error_text(error_body('no "such" model')) == 'no "such" model'
    assert error_text(b"<html>\xff") == "<html>�"
