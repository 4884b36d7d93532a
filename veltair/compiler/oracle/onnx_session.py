"""ONNX Runtime at its best, to compare latencies with: all optimisations, pinned threads, no copies."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples


class OnnxSession:
    """A session on given cores, one thread each, whose inputs and outputs keep their memory between runs.

    The calling thread is one of them: it is pinned to the first core, and stays so. The session's threads
    spin while they wait, as is ONNX Runtime's default.
    """

    def __init__(self, model: Path, samples: Samples, cores: Sequence[int]) -> None:
        """Optimise the model and bind an array for each of its inputs."""
        os.sched_setaffinity(0, {cores[0]})
        self._session: Any = onnxruntime.InferenceSession(
            str(model), self._options(cores), providers=["CPUExecutionProvider"]
        )
        self._binding: Any = self._session.io_binding()
        for given, sample in zip(self._session.get_inputs(), samples, strict=True):
            self._binding.bind_ortvalue_input(given.name, onnxruntime.OrtValue.ortvalue_from_numpy(sample))
        # The first run makes the outputs; binding them spares every later run the allocation.
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)
        self._session.run_with_iobinding(self._binding)
        names = (output.name for output in self._session.get_outputs())
        for name, value in zip(names, self._binding.get_outputs(), strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> float:
        """Run the model once and return the seconds."""
        start_s = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        return time.perf_counter() - start_s

    def outputs(self) -> list[NDArray[Any]]:
        """Return what the last run answered."""
        return [np.asarray(value.numpy()) for value in self._binding.get_outputs()]

    def _options(self, cores: Sequence[int]) -> Any:
        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = len(cores)
        options.inter_op_num_threads = 1
        if len(cores) > 1:
            # It counts processors from 1, and leaves out the calling thread.
            affinities = ";".join(str(core + 1) for core in cores[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
        return options


class ProfiledSession(OnnxSession):
    """The same, in which ONNX Runtime notes the time of each kernel; its runs are a little slower."""

    def __init__(self, model: Path, samples: Samples, cores: Sequence[int], profile: Path) -> None:
        """Make the session; the name of the file of its profile will begin with `profile`."""
        self._profile = profile
        super().__init__(model, samples, cores)

    def end_profile(self) -> Path:
        """Write the events of all runs until now, that in which the session was made included, as JSON."""
        return Path(self._session.end_profiling())

    def _options(self, cores: Sequence[int]) -> Any:
        options = super()._options(cores)
        options.enable_profiling = True
        options.profile_file_prefix = str(self._profile)
        return options
