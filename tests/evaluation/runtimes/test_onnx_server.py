import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.onnx_builders import run_onnx
from tests.support.tiny import tiny, tiny_words
from veltair.compiler.frontend.samples import random_samples, read_inputs
from veltair.evaluation.runtimes import onnx_server
from veltair.evaluation.runtimes.onnx_server import OnnxServer, Setup

CORES = tuple(sorted(os.sched_getaffinity(0)))
MODELS = {"tiny": tiny(), "words": tiny_words()}
SAMPLES = [(name, random_samples(read_inputs(model, name), [5, 0])) for name, model in MODELS.items()]

Ends = queue.SimpleQueue[tuple[int, float, Exception | None]]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, model in MODELS.items():
        onnx.save(model, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in MODELS}


@pytest.fixture
def ends() -> Ends:
    return queue.SimpleQueue()


@pytest.fixture
def server(paths: dict[str, Path], ends: Ends) -> Iterator[OnnxServer]:
    """A session of each model for each core, as the best pinned settings have."""
    server = OnnxServer(
        paths, SAMPLES, CORES, lambda *end: ends.put(end), sessions=len(CORES), pinned=True, spin="runs"
    )
    yield server
    server.stop()


def test_every_session_answers_rightly(server: OnnxServer) -> None:
    for number, (name, values) in enumerate(SAMPLES):
        answers = server.answers(number)
        assert len(answers) == len(CORES)
        for answer in answers:
            assert np.allclose(answer[0], run_onnx(MODELS[name], *values)[0], atol=1e-5)


def test_each_query_ends_once(server: OnnxServer, ends: Ends) -> None:
    for query in range(20):
        server.submit(query, query % len(SAMPLES))
    found = [ends.get(timeout=10) for _ in range(20)]
    assert sorted(query for query, _, _ in found) == list(range(20))
    assert [failure for _, _, failure in found if failure is not None] == []
    assert ends.empty()


def test_a_query_that_fails_ends_with_its_error(paths: dict[str, Path], ends: Ends) -> None:
    wrong = [("tiny", (np.zeros((1, 3, 4, 4), np.float32),))]
    server = OnnxServer(paths, wrong, CORES, lambda *end: ends.put(end))
    server.submit(7, 0)
    query, _, failure = ends.get(timeout=10)
    server.stop()
    assert query == 7
    assert "invalid dimensions" in str(failure)


def test_cores_are_shared_out_among_the_sessions_in_order() -> None:
    assert Setup(sessions=2).groups((4, 5, 6, 7)) == [(4, 5), (6, 7)]
    assert Setup().groups((4, 5, 6)) == [(4, 5, 6)]


def test_sessions_that_do_not_divide_the_cores_are_refused() -> None:
    with pytest.raises(ValueError, match="3 sessions on 4 cores; give a divisor"):
        Setup(sessions=3).groups((0, 1, 2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sessions": 0}, "0 sessions, 1 callers"),
        ({"callers": 0}, "1 sessions, 0 callers"),
        ({"shared_pool": True, "pinned": True}, "cannot be pinned"),
        ({"shared_pool": True, "spin": "never"}, "nor told when to spin"),
        ({"pinned": True, "callers": 2}, "2 callers of a pinned session"),
    ],
)
def test_a_setup_that_contradicts_itself_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setup(**options)


def test_threads_of_a_pinned_session_have_a_core_each_but_for_the_caller() -> None:
    options = onnx_server.session_options((4, 5, 6), Setup(pinned=True, spin="runs"))
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op_thread_affinities") == "6;7"
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_defaults_are_left_alone_where_all_cores_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert onnx_server.session_options((0, 1, 2, 3), Setup()).intra_op_num_threads == 0
    assert onnx_server.session_options((0, 1), Setup()).intra_op_num_threads == 2


def test_threads_that_never_spin_are_told_so() -> None:
    options = onnx_server.session_options((0, 1), Setup(spin="never"))
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_sessions_of_the_shared_pool_have_no_threads_of_their_own() -> None:
    assert not onnx_server.session_options((0, 1), Setup(shared_pool=True)).use_per_session_threads
