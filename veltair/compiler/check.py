"""What serving an ONNX file takes, told before anything long starts: its layers, work and search."""

import gc
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.onnx_passes import ModelError, load_onnx
from veltair.compiler.frontend.operators import check_operators
from veltair.compiler.frontend.samples import Input
from veltair.compiler.select.shipped import ServedStores, serve
from veltair.compiler.select.store import SECONDS_PER_TRIAL, read_info
from veltair.compiler.steps import ANY_QOS_S


@dataclass(frozen=True, slots=True)
class CheckedLayer:
    """A layer: its operators, multiply-accumulates, output shapes, and the first layer of its structure.

    `candidates` is how many of its structure ran in the search of the store that has them (0: none has).
    """

    operators: str
    macs: int
    outputs: tuple[tuple[int, ...], ...]
    first: int
    candidates: int


@dataclass(frozen=True, slots=True)
class Report:
    """A model that can be served, and how long a trial of a search takes.

    `parameters` counts the numbers in its layers' constants, after folding.
    """

    inputs: tuple[Input, ...]
    layers: tuple[CheckedLayer, ...]
    parameters: int
    seconds_per_trial: float

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one query."""
        return sum(layer.macs for layer in self.layers)

    @property
    def structures(self) -> int:
        """How many layers differ from all before them."""
        return sum(layer.first == number for number, layer in enumerate(self.layers))

    @property
    def missing(self) -> int:
        """How many structures have no candidate."""
        return sum(layer.first == number and not layer.candidates for number, layer in enumerate(self.layers))

    def search_s(self, trials: int) -> float:
        """Return the estimated seconds of searching the structures that have no candidate."""
        return self.missing * trials * self.seconds_per_trial


def check(path: Path, stores: Sequence[Path]) -> Report:
    """Return what serving the model of a file takes, beside the candidates that the stores have.

    Raises ModelError, on one line, if it cannot be served, and StoreError for a store that cannot be read.
    """
    _check_file(path)
    # Before the file's own checks, for what an unknown operator makes has no shape that they could accept.
    check_operators(_without_weights(path), str(path))
    imported = _import_quietly(str(path), load_onnx(path))
    seconds = read_info(stores[0]).seconds_per_trial if stores else SECONDS_PER_TRIAL
    return _report(imported, serve(stores, imported.functions()), seconds)


def _report(imported: ImportedModel, served: ServedStores, seconds_per_trial: float) -> Report:
    ran = {
        structure: sum(bool(one.run_seconds) for one in group)
        for structure, group in served.candidates.items()
    }
    first: dict[str, int] = {}
    layers = []
    for number, (layer, call) in enumerate(zip(imported.model.layers, imported.calls, strict=True)):
        layers.append(
            CheckedLayer(
                operators=layer.structure.rsplit("-", 1)[0],
                macs=layer.macs,
                outputs=call.outputs,
                first=first.setdefault(layer.structure, number),
                candidates=ran.get(layer.structure, 0),
            )
        )
    constants = [one for call in imported.calls for one in call.inputs if isinstance(one, np.ndarray)]
    parameters = sum(array.size for array in constants if array.dtype.kind == "f")
    return Report(imported.inputs, tuple(layers), parameters, seconds_per_trial)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"{path} does not exist")
    if not path.is_file():
        raise ModelError(f"{path} is not a file; give the path of an ONNX file")
    if not path.stat().st_size:
        raise ModelError(f"{path} is empty; export the model again")
    for tensor in _without_weights(path).graph.initializer:
        if uses_external_data(tensor):
            data = path.parent / ExternalDataInfo(tensor).location
            if not data.is_file():
                raise ModelError(
                    f"{path} keeps {tensor.name} in {data}, which is missing; put it back beside the model"
                )


def _without_weights(path: Path) -> onnx.ModelProto:
    """Return the model of a file without its external data; an empty one if it is no ONNX, see load_onnx."""
    try:
        return onnx.load(path, load_external_data=False)
    except DecodeError:
        return onnx.ModelProto()


def _import_quietly(name: str, model: onnx.ModelProto) -> ImportedModel:
    with _silenced():
        try:
            return import_model(name, model, ANY_QOS_S)
        except ModelError as error:
            message = str(error)
        # TVM's importer warns that it was interrupted when it is freed: with the error gone, now.
        gc.collect()
    raise ModelError(message)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what TVM prints off the terminal: it says in many lines what the error then says in one."""
    with redirect_stdout(io.StringIO()), Path(os.devnull).open("w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
