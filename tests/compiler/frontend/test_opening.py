import gzip
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.onnx_builders import make_onnx, node
from tests.support.tiny import tiny
from veltair.compiler.frontend import opening
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.opening import open_model


def external(folder: Path, location: str = "weights.bin") -> Path:
    path = folder / "tiny.onnx"
    onnx.save(tiny(), path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def relocated(path: Path, location: str) -> None:
    """Let the external data of a model be said to lie elsewhere."""
    model = onnx.load(path, load_external_data=False)
    for one in model.graph.initializer:
        for entry in one.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def test_a_saved_model_is_opened_whole(tmp_path: Path) -> None:
    onnx.save(tiny(), tmp_path / "tiny.onnx")
    assert open_model(tmp_path / "tiny.onnx") == tiny()


def test_external_data_is_read_into_the_model(tmp_path: Path) -> None:
    model = open_model(external(tmp_path))
    assert model.graph.initializer[0].raw_data == tiny().graph.initializer[0].raw_data
    assert not any(one.external_data for one in model.graph.initializer)


def test_links_are_followed_as_a_cache_of_downloads_has_them(tmp_path: Path) -> None:
    # Hugging Face's: snapshots/REVISION/model.onnx -> ../../blobs/HASH, its data likewise.
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external(blobs)
    for name, blob in (("tiny.onnx", "aa"), ("weights.bin", "bb")):
        (blobs / name).rename(blobs / blob)
        (snapshot / name).symlink_to(Path("../../blobs") / blob)
    model = open_model(snapshot / "tiny.onnx")
    assert model.graph.initializer[0].raw_data == tiny().graph.initializer[0].raw_data


def test_the_data_may_lie_beside_what_a_link_to_the_model_links_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.onnx").symlink_to(external(tmp_path / "real"))
    assert open_model(tmp_path / "link.onnx").graph.initializer[0].raw_data


def lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 102\n")


def page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>")


def gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(tiny().SerializeToString()))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state": [1, 2, 3]}, protocol=2))


def safetensors(path: Path) -> None:
    path.write_bytes((64).to_bytes(8, "little") + b'{"w":{"dtype":"F32"}}'.ljust(64) + bytes(16))


def json_text(path: Path) -> None:
    path.write_text('{"error": "Repository not found"}')


def xml(path: Path) -> None:
    path.write_text('<?xml version="1.0"?><net name="model" version="11"></net>')


def tflite(path: Path) -> None:
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64))


def notes(path: Path) -> None:
    path.write_text("not a model\n" * 50)


def hdf5(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))


OTHERS: list[tuple[Callable[[Path], None], str]] = [
    (lfs, "Git LFS pointer, not the model; run `git lfs pull`"),
    (page, "an HTML page"),
    (gzipped, "compressed with gzip; unpack it with gunzip"),
    (zipped, "a zip archive, as PyTorch's checkpoints are"),
    (pickled, "a Python pickle"),
    (safetensors, "a safetensors file"),
    (json_text, "JSON, such as a server's error message"),
    (xml, "XML, as OpenVINO's models are"),
    (tflite, "a TensorFlow Lite model"),
    (hdf5, "HDF5, as Keras writes it"),
    (notes, "a text file"),
]


@pytest.mark.parametrize(("make", "what"), OTHERS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_else_a_file_is_is_told_by_its_first_bytes(
    make: Callable[[Path], None], what: str, tmp_path: Path
) -> None:
    make(tmp_path / "net.onnx")
    with pytest.raises(ModelError) as caught:
        open_model(tmp_path / "net.onnx")
    assert str(caught.value).startswith(f"{tmp_path}/net.onnx is not a valid ONNX model: it is ")
    assert what in str(caught.value)
    assert "truncated" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist; check `models\.<name>\.onnx`"):
        open_model(tmp_path / "nowhere.onnx")


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a file; give the path of an ONNX file"):
        open_model(tmp_path)


def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    whole = tiny().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in [0, 1, 2, 3, 10, len(whole) - 1, *range(100, len(whole), 997)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.onnx .*truncated\?"):
            open_model(path)


def test_another_message_of_protobuf_is_refused(tmp_path: Path) -> None:
    # It parses, for protobuf skips fields that it does not know.
    (tmp_path / "other.onnx").write_bytes(b"\x98\x7d\x01")
    with pytest.raises(
        ModelError, match=r"other\.onnx is not a valid ONNX model \(truncated\?\): it holds none"
    ):
        open_model(tmp_path / "other.onnx")


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(
        ModelError, match=r"keeps stem\.weight in .*weights\.bin, which is missing; put it back"
    ):
        open_model(path)


def test_cut_external_data_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:100])
    with pytest.raises(
        ModelError, match=r"external data cannot be read: stem\.weight wants 1728 bytes from byte 0"
    ):
        open_model(path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "a/../../weights.bin"])
def test_external_data_outside_the_folder_is_refused_with_what_to_do(location: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = external(tmp_path / "inner")
    relocated(path, location)
    with pytest.raises(ModelError, match="outside its folder; move the data beside the model"):
        open_model(path)


def test_a_model_larger_than_a_protobuf_is_refused_before_its_data_are_read(tmp_path: Path) -> None:
    large = helper.make_tensor("k", onnx.TensorProto.FLOAT, (), [0.0])
    large.ClearField("float_data")
    large.dims.extend([600_000_000])
    large.data_location = onnx.TensorProto.EXTERNAL
    large.external_data.add(key="location", value="nowhere.bin")
    model = make_onnx([node("Add", ["x", "k"], ["y"])], {"x": (1,)}, {"y": (600_000_000,)})
    model.graph.initializer.append(large)
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"holds 2\.40 GB, more than a protobuf can \(2\.15 GB\)"):
        open_model(tmp_path / "large.onnx")


def test_so_is_a_file_of_that_size_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LARGEST_BYTES", 100)
    onnx.save(tiny(), tmp_path / "tiny.onnx")
    with pytest.raises(ModelError, match="more than a protobuf can"):
        open_model(tmp_path / "tiny.onnx")


def test_external_data_of_half_bytes_are_as_long_as_they_are(tmp_path: Path) -> None:
    packed = helper.make_tensor("k", onnx.TensorProto.INT4, (3,), np.array([1, 2, 3]))
    content = packed.raw_data or bytes(packed.int32_data)
    one = onnx.TensorProto(name="k", data_type=onnx.TensorProto.INT4, dims=[3])
    one.data_location = onnx.TensorProto.EXTERNAL
    one.external_data.add(key="location", value="k.bin")
    (tmp_path / "k.bin").write_bytes(content)
    model = make_onnx([node("Relu", ["x"], ["y"])], {"x": (1,)}, {"y": (1,)})
    model.graph.initializer.append(one)
    (tmp_path / "packed.onnx").write_bytes(model.SerializeToString())
    assert open_model(tmp_path / "packed.onnx").graph.initializer[0].raw_data == content[:2]
