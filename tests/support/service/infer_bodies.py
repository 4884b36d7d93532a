"""Requests for inference of the model `echo`, as clients write them."""

import json
from typing import Any

import numpy as np

VALUES = np.arange(4, dtype=np.float32).reshape(1, 4)


def json_body(values: Any = None, **others: Any) -> bytes:
    """Return a request with its tensor in JSON; `others` are further keys of it."""
    data = VALUES if values is None else values
    shape = list(data.shape)
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "data": data.ravel().tolist()}
    return json.dumps({"inputs": [tensor]} | others).encode()


def binary_body(values: Any = None, **others: Any) -> tuple[bytes, dict[str, str]]:
    """Return a request with its tensor in bytes behind the JSON, its answer too, and its headers."""
    data = VALUES if values is None else values
    tensor = {
        "name": "x", "shape": list(data.shape), "datatype": "FP32",
        "parameters": {"binary_data_size": data.nbytes},
    }  # fmt: skip
    asked = {
        "inputs": [tensor],
        "parameters": {"binary_data_output": True} | others.pop("parameters", {}),
    } | others
    head = json.dumps(asked).encode()
    return head + data.tobytes(), {
        "inference-header-content-length": str(len(head)),
        "content-type": "application/octet-stream",
    }
