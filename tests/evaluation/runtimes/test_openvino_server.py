import os
import queue
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from tests.support.onnx_builders import run_onnx
from tests.support.tiny import tiny, tiny_words
from veltair.compiler.frontend.samples import random_samples, read_inputs
from veltair.evaluation.runtimes.openvino_server import OpenVinoServer, import_quietly

# find_spec and not importorskip: importing it in the ordinary way would report that over the network.
pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="the optional openvino is missing")

MODELS = {"tiny": tiny(), "words": tiny_words()}
SAMPLES = [(name, random_samples(read_inputs(model, name), [5, 0])) for name, model in MODELS.items()]

Ends = queue.SimpleQueue[tuple[int, float, Exception | None]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenVinoServer, Ends]]:
    folder, ends = tmp_path_factory.mktemp("models"), Ends()
    for name, model in MODELS.items():
        onnx.save(model, folder / f"{name}.onnx")
    paths = {name: folder / f"{name}.onnx" for name in MODELS}
    cores = sorted(os.sched_getaffinity(0))
    server = OpenVinoServer(paths, SAMPLES, cores, lambda *end: ends.put(end))
    yield server, ends
    server.stop()


def test_every_request_of_a_model_answers_rightly(served: tuple[OpenVinoServer, Ends]) -> None:
    for number, (name, values) in enumerate(SAMPLES):
        for answer in served[0].answers(number):
            assert np.allclose(answer[0], run_onnx(MODELS[name], *values)[0], atol=1e-5)


def test_each_query_ends_once(served: tuple[OpenVinoServer, Ends]) -> None:
    server, ends = served
    for query in range(20):
        server.submit(query, query % len(SAMPLES))
    found = [ends.get(timeout=10) for _ in range(20)]
    assert sorted(query for query, _, _ in found) == list(range(20))
    assert [failure for _, _, failure in found if failure is not None] == []
    assert ends.empty()


def test_it_is_imported_without_its_telemetry(served: tuple[OpenVinoServer, Ends]) -> None:
    import_quietly()
    assert sys.modules["openvino_telemetry"] is None
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules
