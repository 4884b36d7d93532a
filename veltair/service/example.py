"""A first request, for whoever has just started a service."""

import json
import shlex
from math import prod
from pathlib import Path

import numpy as np

from veltair.provenance import write_atomically
from veltair.service.engine.link import ServedModel
from veltair.wire.datatypes import datatype_of


def write_request(model: ServedModel, file: Path) -> None:
    """Write a request of numbers that are easy to read, all within what integers may be: zeros and ones."""
    generator = np.random.default_rng(0)
    inputs = [
        {
            "name": tensor.name,
            "datatype": datatype_of(tensor.dtype),
            "shape": list(tensor.shape),
            "data": generator.integers(0, 2, prod(tensor.shape)).tolist(),
        }
        for tensor in model.inputs
    ]
    write_atomically({file: json.dumps({"inputs": inputs}).encode()})


def curl_line(address: str, name: str, request: Path, token: Path) -> str:
    """Return the command that sends a request's file; the token stays in its own."""
    bearer = f'-H "Authorization: Bearer $(cat {shlex.quote(_shown(token))})"'
    data = shlex.quote(f"@{_shown(request)}")
    return f"curl -s {bearer} -d {data} http://{address}/v2/models/{name}/infer"


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
