import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper

from models.graph import GraphRecorder
from tests.conftest import TINY_STORE
from tests.support.onnx_builders import make_onnx, node
from tests.support.tiny import tiny
from veltair.compiler.__main__ import main
from veltair.compiler.check import CheckedLayer, Report, check
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.search.expected import ExpectedSearch
from veltair.compiler.select.store import FEW, StoreError

ROOT = Path(__file__).parents[2]
ROW = {"x": (1, 3)}


def without_progress(text: str) -> list[str]:
    """Return the lines that do not tell how far it is, which a busy machine adds."""
    return [line for line in text.splitlines() if not line.startswith(("compiling layer", "running layer"))]


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny(), tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def tiny_report(tiny_file: Path) -> Report:
    return check(tiny_file, [TINY_STORE])


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def row(
    *nodes: onnx.NodeProto, outputs: Mapping[str, tuple[int | str, ...]] | None = None
) -> onnx.ModelProto:
    """Return a model of a row of three numbers, with custom operators of the domain acme."""
    return make_onnx(nodes, ROW, outputs or {"y": (1, 3)}, domains=["acme"])


def layer(first: int, candidates: int = 0, macs: int = 0) -> CheckedLayer:
    return CheckedLayer("relu", macs, ((1, 3),), first, candidates)


def test_a_report_has_each_layer_with_its_work_and_its_output(tiny_report: Report) -> None:
    found = [(one.operators, one.macs, one.outputs) for one in tiny_report.layers]
    assert found[1] == ("conv2d_add_maximum_minimum", 8 * 8 * 16 * 27, ((1, 8, 8, 16),))
    assert found[5] == ("matmul_add", 160, ((1, 10),))
    assert len(found) == 6
    inputs = [(one.name, one.dtype, one.shape) for one in tiny_report.inputs]
    assert inputs == [("input", "float32", (1, 3, 16, 16))]


def test_macs_are_those_of_all_layers(tiny_report: Report) -> None:
    assert tiny_report.macs == 8 * 8 * 16 * 27 + 8 * 8 * 16 * 144 + 160


def test_parameters_are_counted_after_folding(tiny_report: Report) -> None:
    # Two 3x3 convolutions and a dense layer with a bias each, and the two bounds of the ReLU6.
    assert tiny_report.parameters == (3 * 16 * 9 + 16) + (16 * 16 * 9 + 16) + (160 + 10) + 2


def test_equal_layers_name_the_first_of_them(tmp_path: Path) -> None:
    graph = GraphRecorder("twins", 0)
    x = "input"
    for number in range(3):
        x = graph.node("Relu", [graph.conv(x, f"conv{number}", (8, 8), kernel=3)], f"relu{number}")
    path = save(graph.model((1, 8, 6, 6), x, (1, 8, 6, 6)), tmp_path / "twins.onnx")
    report = check(path, [])
    assert [one.first for one in report.layers if one.macs] == [1, 1, 1]
    assert report.structures == len(report.layers) - 2


def test_a_structure_has_the_candidates_that_ran_in_the_store(tiny_report: Report) -> None:
    table = pd.read_parquet(TINY_STORE / "candidates.parquet")
    ran = table[table["run_seconds"].map(len) > 0].groupby("structure").size()
    assert sorted(one.candidates for one in tiny_report.layers) == sorted(ran)
    assert tiny_report.missing == 0


def test_the_search_is_estimated_from_the_structures_without_candidates() -> None:
    # Layer 1 is as 0, and only 2 has candidates: two structures.
    layers = (layer(0), layer(0), layer(2, candidates=8), layer(3))
    searches = (ExpectedSearch(10, 16, True, 0), ExpectedSearch(0, 4, False, 0))
    report = Report((), layers, 0, searches)
    assert (report.structures, report.missing, report.measured(trials=64)) == (3, 2, 10 + 64 + 4 + 3)
    assert report.search_s(64) == searches[0].seconds(64) + searches[1].seconds(64)
    # A recipe and a schedule each, at once.
    assert report.own_s > searches[0].few_seconds(FEW) + searches[1].few_seconds(FEW)


def test_a_search_of_few_trials_still_measures_every_recipe_and_schedule_by_hand() -> None:
    assert ExpectedSearch(10, 16, True, 0).candidates(trials=1) == 26


def test_what_takes_longer_to_run_takes_longer_to_search() -> None:
    light, heavy = ExpectedSearch(1, 1, True, 10**6), ExpectedSearch(1, 1, True, 10**9)
    assert heavy.seconds(8) > light.seconds(8) and heavy.few_seconds(2) > light.few_seconds(2)


def test_without_a_store_every_structure_is_searched(tmp_path: Path) -> None:
    report = check(save(row(node("Relu", ["x"], ["y"])), tmp_path / "relu.onnx"), [])
    assert (report.missing, len(report.searches)) == (1, 1)
    assert not report.searches[0].sums


def test_a_store_that_cannot_be_read_is_named(tiny_file: Path, tmp_path: Path) -> None:
    shutil.copytree(TINY_STORE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(StoreError, match=f"{tmp_path}/search.json is corrupt"):
        check(tiny_file, [tmp_path])


def test_the_command_prints_the_layers_the_totals_and_the_search(
    tiny_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("veltair.compiler.__main__.shipped_stores", list)
    assert main(["check", str(tiny_file), "--trials", "60"]) == 0
    printed = capsys.readouterr()
    rows = [line for line in printed.out.splitlines() if "conv2d_add_maximum_minimum" in line]
    assert len(rows) == 1 and "1x8x8x16" in rows[0]
    assert "inputs: input float32 1x3x16x16" in printed.out
    assert "candidates: none are shipped that this CPU can run" in printed.out
    assert "6 layers of 6 structures, 0.000 GMACs, 0.003 M parameters" in printed.out
    line = r"search: 6 structures without candidates, (\d+) candidates: about ([\d.]+) minutes; ([\d.]+) min"
    found = re.search(line, printed.out)
    assert found
    # Four of them have sums, of 60 candidates each and recipes beside.
    assert int(found[1]) >= 240 and float(found[2]) > float(found[3]) > 0
    assert without_progress(printed.err) == []


def test_the_command_says_when_nothing_must_be_searched(
    tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tiny_file), "--store", str(TINY_STORE)]) == 0
    printed = capsys.readouterr().out
    assert f"candidates: {TINY_STORE}\n" in printed
    assert "search: none, every structure has candidates" in printed


def test_the_trials_are_those_of_a_run_unless_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", "--help"])
    assert caught.value.code == 0
    assert "(default: 128)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["check"], ["frob"], ["check", "a.onnx", "--trials", "0"], ["check", "a.onnx", "--trials", "many"]],
)
def test_wrong_usage_ends_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m veltair.compiler")


def test_a_store_that_is_not_there_ends_with_status_2(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tiny_file), "--store", str(tmp_path)]) == 2
    (line,) = without_progress(capsys.readouterr().err)
    assert line.startswith(f"error: {tmp_path}/candidates.parquet is missing; ")


def missing(path: Path) -> None:
    """Leave nothing there."""


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    whole = tiny().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2])


def no_onnx(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))


def another_message(path: Path) -> None:
    # Parses, for protobuf skips fields that it does not know.
    path.write_bytes(b"\x98\x7d\x01")


def without_external_data(path: Path) -> None:
    onnx.save(tiny(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()


def short_external_data(path: Path) -> None:
    onnx.save(tiny(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    weights = path.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:100])


def no_nodes(path: Path) -> None:
    save(make_onnx([], ROW, ROW), path)


def dynamic(path: Path) -> None:
    save(make_onnx([node("Relu", ["x"], ["y"])], {"x": (1, "length")}, {"y": (1, "length")}), path)


def no_shape(path: Path) -> None:
    model = row(node("Relu", ["x"], ["y"]))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    save(model, path)


def unknown_operators(path: Path) -> None:
    save(row(node("Frob", ["x"], ["a"], name="f1"), node("Det", ["a"], ["y"], name="det")), path)


def custom_operator(path: Path) -> None:
    save(row(node("Relu", ["x"], ["y"], name="r", domain="acme")), path)


def loop(path: Path) -> None:
    more = helper.make_tensor_value_info("more", TensorProto.BOOL, ())
    again = helper.make_tensor_value_info("again", TensorProto.BOOL, ())
    count = helper.make_tensor_value_info("count", TensorProto.INT64, ())
    state = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3)) for name in ("a", "b")]
    nodes = [node("Identity", ["more"], ["again"]), node("Relu", ["a"], ["b"])]
    body = helper.make_graph(nodes, "body", [count, more, state[0]], [again, state[1]])
    repeated = node("Loop", ["times", "", "x"], ["y"], name="repeat", body=body)
    save(make_onnx([repeated], ROW, {"y": (1, 3)}, {"times": np.array(3)}), path)


def masked(path: Path) -> None:
    model = row(node("Dropout", ["x"], ["y", "mask"], name="drop"), outputs={"y": (1, 3), "mask": (1, 3)})
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.BOOL
    save(model, path)


def dropout_last(path: Path) -> None:
    save(row(node("Relu", ["x"], ["h"]), node("Dropout", ["h"], ["y"], name="drop")), path)


def places_of_values(path: Path) -> None:
    model = row(node("NonZero", ["x"], ["y"], name="places"), outputs={"y": (2, "found")})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    save(model, path)


def without_an_attribute(path: Path) -> None:
    # ONNX's checker does not know ONNX Runtime's operators; TVM's converter looks for `num_heads`.
    attention = node("Attention", ["x", "w", "w"], ["y"], name="heads", domain="com.microsoft")
    model = make_onnx([attention], ROW, {"y": (1, 3)}, {"w": np.ones((3, 3), np.float32)})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    save(model, path)


def nothing_to_compute(path: Path) -> None:
    save(row(node("Identity", ["x"], ["y"])), path)


BAD_FILES: list[tuple[Callable[[Path], None], str]] = [
    (missing, "PATH does not exist"),
    (folder, "PATH is not a file; give the path of an ONNX file"),
    (empty, "PATH is empty; export the model again"),
    (truncated, "PATH is not a valid ONNX model (truncated?): "),
    (no_onnx, "PATH is not a valid ONNX model: it is a picture; give the model"),
    (another_message, "PATH is not a valid ONNX model (truncated?): "),
    (without_external_data, "PATH keeps stem.weight in FOLDER/weights.bin, which is missing; put it back"),
    (short_external_data, "PATH: its external data cannot be read: "),
    (no_nodes, "PATH has no nodes (truncated?)"),
    (
        dynamic,
        "PATH: dimensions of 1 of 1 inputs are open: x is 1xlength. Fix them with --shape x=1,LENGTH or",
    ),
    (
        no_shape,
        "PATH: dimensions of 1 of 1 inputs are open: x is of unknown shape. Fix them with --shape x=SIZES",
    ),
    (
        unknown_operators,
        "PATH: operator Frob of node f1 is not supported: TVM's ONNX importer does not know it; operator Det "
        "of node det is not supported: ",
    ),
    (
        custom_operator,
        "PATH: operator acme.Relu of node r is not supported: custom operator of the domain acme",
    ),
    (loop, "PATH: operator Loop of node repeat is not supported: which layers run must not depend on"),
    (masked, "PATH: operator Dropout of node drop is not supported: its mask is used, as in training"),
    (
        places_of_values,
        "PATH: operator NonZero of node places is not supported: the shape of its output depends on",
    ),
    (without_an_attribute, "PATH: node heads (Attention; inputs 1x3, 3x3, 3x3) cannot be compiled"),
    (nothing_to_compute, "PATH has no layers: its outputs are its inputs"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FILES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_model_that_cannot_be_served_is_refused_in_one_line(
    make: Callable[[Path], None], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.onnx"
    make(path)
    assert main(["check", str(path)]) == 1
    printed = capfd.readouterr()
    wanted = message.replace("PATH", str(path)).replace("FOLDER", str(tmp_path))
    assert printed.err.startswith(f"error: {wanted}")
    # TVM has its own words for some of them, on both streams.
    assert printed.err.count("\n") == 1 and printed.out == ""


def test_top_k_is_refused(tmp_path: Path) -> None:
    model = make_onnx(
        [node("TopK", ["x", "k"], ["y", "places"], name="top")], ROW, {"y": (1, 2)}, {"k": np.array([2])}
    )
    with pytest.raises(ModelError, match="operator TopK of node top is not supported: TVM has no kernel"):
        check(save(model, tmp_path / "net.onnx"), [])


def test_the_command_says_one_line_and_tvm_none(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    without_an_attribute(path)
    done = subprocess.run(
        [sys.executable, "-m", "veltair.compiler", "check", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # TVM's importer warns when it is freed, which may be as late as the end of the process.
    message = (
        f"error: {path}: node heads (Attention; inputs 1x3, 3x3, 3x3) cannot be compiled: 'num_heads'. "
        "Replace it in the export, or end the model before it\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
