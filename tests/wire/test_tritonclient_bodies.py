"""Requests as `tritonclient` 2.73.0 writes them: its own bytes, made by its `generate_request_body`."""

from typing import Any

import pytest

from veltair.wire.infer import read_request

BINARY_INPUTS = (
    b'"inputs":[{"name":"input","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}},'
    b'{"name":"s","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":12}}]'
)
JSON_INPUTS = (
    b'"inputs":[{"name":"input","shape":[2],"datatype":"FP32","data":[1.0,2.0]},'
    b'{"name":"s","shape":[2],"datatype":"BYTES","data":["a","bcd"]}]'
)
FLOATS, TEXTS = b"\x00\x00\x80?\x00\x00\x00@", b"\x01\x00\x00\x00a\x03\x00\x00\x00bcd"


def request(inputs: bytes, rest: bytes, binary: bool) -> tuple[bytes, int | None]:
    header = b'{"id":"9",' + inputs + b"," + rest + b"}"
    return (header + FLOATS + TEXTS, len(header)) if binary else (header, None)


@pytest.mark.parametrize(
    ("inputs", "rest", "outputs", "is_binary"),
    [
        (BINARY_INPUTS, b'"parameters":{"priority":1,"timeout":5000,"binary_data_output":true}', None, True),
        (
            BINARY_INPUTS,
            b'"outputs":[{"name":"logits","parameters":{"binary_data":true}}],'
            b'"parameters":{"priority":1,"timeout":5000}',
            ("logits",),
            True,
        ),
        (
            JSON_INPUTS,
            b'"outputs":[{"name":"logits","parameters":{"binary_data":false}}],'
            b'"parameters":{"priority":1,"timeout":5000}',
            ("logits",),
            False,
        ),
    ],
)
def test_bodies_of_tritonclient_are_read(inputs: bytes, rest: bytes, outputs: Any, is_binary: bool) -> None:
    found = read_request(*request(inputs, rest, inputs is BINARY_INPUTS))

    assert [(one.name, bytes(one.data)) for one in found.inputs] == [("input", FLOATS), ("s", TEXTS)]
    assert (found.id, found.outputs, found.is_binary("logits")) == ("9", outputs, is_binary)
    assert (found.timeout_s, found.priority) == (0.005, 1)
