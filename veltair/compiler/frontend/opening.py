"""Open a file as an ONNX model: what else it is, its external data, the versions of its format."""

import contextlib
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError
from onnx import helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from veltair.compiler.frontend.model_error import ModelError

# What protobuf can write, and TVM and ONNX Runtime are given.
LARGEST_BYTES = 2**31 - 1

HEAD_BYTES = 512
# A file of fewer letters may be a message of protobuf that was cut off.
LEAST_TEXT = 16
# By the bytes with which a file begins: what it is and what to do.
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model; run `git lfs pull` beside it"),
    (0, b"PK\x03\x04", "a zip archive, as PyTorch's checkpoints are; unpack it, or use torch.onnx.export"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it with gunzip"),
    (0, b"BZh", "compressed with bzip2; unpack it with bunzip2"),
    (0, b"\xfd7zXZ\x00", "compressed with xz; unpack it with unxz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it with unzstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (257, b"ustar", "a tar archive; unpack it"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it; convert it with tf2onnx"),
    (4, b"TFL3", "a TensorFlow Lite model; convert it with tf2onnx --tflite"),
    (4, b"ORTM", "a model in ONNX Runtime's own format; give the .onnx file that it was made from"),
    (0, b"GGUF", "a GGUF file; export the model to ONNX"),
    (0, b"\x93NUMPY", "a NumPy array; give the model"),
    (0, b"\x89PNG", "a picture; give the model"),
    (0, b"\xff\xd8\xff", "a picture; give the model"),
    (0, b"\x7fELF", "a program or library; give the model"),
    (0, b"%PDF", "a PDF document; give the model"),
)  # fmt: skip


def open_model(path: Path) -> onnx.ModelProto:
    """Return the model of a file, its external data included; nothing of it is checked yet.

    Links are followed. Raises ModelError if the file is none, or if the model is larger than 2 GiB.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist; check `models.<name>.onnx` in the config")
    if not path.is_file():
        raise ModelError(f"{path} is not a file; give the path of an ONNX file")
    size = path.stat().st_size
    if not size:
        raise ModelError(f"{path} is empty; export the model again (truncated?)")
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if other := _what_else(head):
        raise ModelError(f"{path} is not a valid ONNX model: it is {other}")
    if size > LARGEST_BYTES:
        raise _too_large(path, size)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(
            f"{path} is not a valid ONNX model (truncated?): it cannot be parsed after {size} bytes; "
            "download or export it again"
        ) from error
    if not model.ir_version and not model.graph.node:
        raise ModelError(f"{path} is not a valid ONNX model (truncated?): it holds none; export it again")
    if not model.graph.node:
        raise ModelError(f"{path} has no nodes (truncated?)")
    _load_external_data(path, model, size)
    return model


def _what_else(head: bytes) -> str:
    """Return what a file is by its first bytes, if it is known and no ONNX; else an empty text."""
    for start, signature, what in SIGNATURES:
        if head[start : start + len(signature)] == signature:
            return what
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, as PyTorch's older checkpoints are; export it with torch.onnx.export"
    # safetensors: the length of a header of JSON, then the header.
    if head[8:9] == b"{" and head[7:8] == b"\x00":
        return "a safetensors file: weights without a network; export the model to ONNX"
    return _what_text(head) if _is_text(head) else ""


def _what_text(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return (
            "an HTML page, as of a download that needs a login or another address; download the file itself"
        )
    if text.startswith(b"<"):
        return "XML, as OpenVINO's models are; give the .onnx file"
    if text.startswith((b"{", b"[")):
        return "JSON, such as a server's error message; download the file itself"
    return "a text file; give the model" if len(head) > LEAST_TEXT else ""


def _is_text(head: bytes) -> bool:
    # A model is no text: lengths of fields and its version are control characters.
    return all(byte in b"\t\n\r" or byte >= 0x20 for byte in head)


def _load_external_data(path: Path, model: onnx.ModelProto, size: int) -> None:
    """Read the tensors that lie in other files into the model, following links as downloads' caches have."""
    external = [tensor for tensor in _tensors(model.graph) if uses_external_data(tensor)]
    nbytes = size + sum(map(_nbytes, external))
    if nbytes > LARGEST_BYTES:
        raise _too_large(path, nbytes)
    for tensor in external:
        info = ExternalDataInfo(tensor)
        data = _data_file(path, tensor.name, str(info.location))
        wanted, offset = _nbytes(tensor), int(info.offset or 0)
        try:
            with data.open("rb") as stream:
                stream.seek(offset)
                content = stream.read(wanted)
        except OSError as error:
            raise ModelError(f"{path}: its external data {data} cannot be read: {error.strerror}") from error
        if len(content) != wanted:
            raise ModelError(
                f"{path}: its external data cannot be read: {tensor.name} wants {wanted} bytes from byte "
                f"{offset} of {data}, which has {data.stat().st_size} (truncated?); download it again"
            )
        tensor.raw_data = content
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _data_file(path: Path, name: str, location: str) -> Path:
    place = PurePosixPath(location)
    if not location or place.is_absolute() or ".." in place.parts:
        raise ModelError(
            f"{path} keeps {name} in '{location}', outside its folder; move the data beside the model "
            "and save it with onnx.save(model, path, save_as_external_data=True, location='model.data')"
        )
    # A link to the model may lie elsewhere than what it links to, with the data beside the one or the other.
    folders = (path.parent, path.resolve().parent)
    found = [folder / place for folder in folders if (folder / place).is_file()]
    if not found:
        raise ModelError(
            f"{path} keeps {name} in {path.parent / place}, which is missing; put it back beside the model"
        )
    return found[0]


def _nbytes(tensor: onnx.TensorProto) -> int:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        values = int(prod(tensor.dims))
        packed = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
        return (values + 1) // 2 if tensor.data_type in packed else values * itemsize
    return int(ExternalDataInfo(tensor).length or 0)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors of a graph, those of attributes and of bodies too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)


def _too_large(path: Path, nbytes: int) -> ModelError:
    return ModelError(
        f"{path} holds {nbytes / 1e9:.2f} GB, more than a protobuf can (2.15 GB); serve a smaller model, or "
        "split it"
    )
