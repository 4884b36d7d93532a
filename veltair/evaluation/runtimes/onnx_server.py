"""ONNX Runtime as a server of queries: sessions by group of cores, and threads that call them."""

import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples
from veltair.evaluation.runtimes.registry import Done

Sessions = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """`sessions` of each model on equal shares of the cores, and `callers` threads that call each of them.

    `pinned`: every thread of a session to one core. `shared_pool`: all sessions use one pool of threads.
    `spin`: whether the threads of a session wait for work spinning `always`, only while a query `runs`, or
    `never`; the shared pool always spins.
    """

    sessions: int = 1
    callers: int = 1
    pinned: bool = False
    shared_pool: bool = False
    spin: Literal["always", "runs", "never"] = "always"

    def __post_init__(self) -> None:
        if self.sessions < 1 or self.callers < 1:
            raise ValueError(f"Setup: {self.sessions} sessions, {self.callers} callers; give 1 or more")
        if self.shared_pool and (self.pinned or self.spin != "always"):
            raise ValueError("Setup: threads of the shared pool cannot be pinned, nor told when to spin")
        if self.pinned and self.callers > 1:
            raise ValueError(f"Setup: {self.callers} callers of a pinned session; give 1, it takes part")

    def groups(self, cores: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the cores of each session. Raises ValueError if they cannot be shared out equally."""
        if len(cores) % self.sessions:
            raise ValueError(f"{self.sessions} sessions on {len(cores)} cores; give a divisor")
        size = len(cores) // self.sessions
        return [tuple(cores[start : start + size]) for start in range(0, len(cores), size)]


class OnnxServer:
    """Queries wait in one line; each caller takes the first one when it is free."""

    def __init__(
        self,
        models: Mapping[str, Path],
        samples: Sequence[tuple[str, Samples]],
        cores: Sequence[int],
        done: Done,
        **options: Any,
    ) -> None:
        """Load the models and start the callers. `options` are those of `Setup`."""
        setup = Setup(**options)
        groups = setup.groups(cores)
        if setup.shared_pool:
            onnxruntime.set_global_thread_pool_sizes(len(cores), 1)
        self._done = done
        self._sessions = [_load(models, at, setup) for at in groups]
        self._jobs: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._inputs = [(name, _named(self._sessions[0][name], values)) for name, values in samples]
        self._stopped = False
        self._callers = [
            threading.Thread(target=self._call, args=(sessions, at[:1] if setup.pinned else at), daemon=True)
            for sessions, at in zip(self._sessions, groups, strict=True)
            for _ in range(setup.callers)
        ]
        for caller in self._callers:
            caller.start()

    def answers(self, sample: int) -> list[list[NDArray[Any]]]:
        """Return the answer to a sample of each session of its model, one after the other."""
        name, inputs = self._inputs[sample]
        return [list(sessions[name].run(None, inputs)) for sessions in self._sessions]

    def submit(self, query: int, sample: int) -> None:
        """Put a query at the end of the line."""
        self._jobs.put((query, sample))

    def stop(self) -> None:
        """Let what runs end, and drop what waits."""
        self._stopped = True
        for _ in self._callers:
            self._jobs.put(None)
        for caller in self._callers:
            caller.join()

    def _call(self, sessions: Sessions, cores: Sequence[int]) -> None:
        os.sched_setaffinity(0, cores)
        while (job := self._jobs.get()) is not None and not self._stopped:
            query, sample = job
            name, inputs = self._inputs[sample]
            start_s = time.monotonic()
            failure: Exception | None = None
            try:
                sessions[name].run(None, inputs)
            except Exception as error:
                failure = error
            self._done(query, start_s, failure)


def _load(models: Mapping[str, Path], cores: Sequence[int], setup: Setup) -> Sessions:
    return {
        name: onnxruntime.InferenceSession(
            str(path), session_options(cores, setup), providers=["CPUExecutionProvider"]
        )
        for name, path in models.items()
    }


def session_options(cores: Sequence[int], setup: Setup) -> Any:
    """Return how a session of ONNX Runtime is set up on some cores."""
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if setup.shared_pool:
        options.use_per_session_threads = False
        return options
    # Its own default counts the machine's cores, and pins threads to those that this process may not use too.
    everything = len(cores) == os.cpu_count() and not setup.pinned
    options.intra_op_num_threads = 0 if everything else len(cores)
    if setup.pinned and len(cores) > 1:
        # It counts processors from 1, and leaves out the calling thread.
        affinities = ";".join(str(core + 1) for core in cores[1:])
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    if setup.spin == "runs":
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if setup.spin == "never":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _named(session: Any, values: Samples) -> dict[str, NDArray[Any]]:
    return {given.name: value for given, value in zip(session.get_inputs(), values, strict=True)}
