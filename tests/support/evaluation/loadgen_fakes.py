"""Who stands for the engine toward LoadGen, and a LoadGen that does as it is told: what test files share."""

import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from veltair.evaluation.loadgen.arrivals import share_samples
from veltair.evaluation.loadgen.client import LoadGenProcess
from veltair.evaluation.loadgen.client_runs import ServerRun
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.loadgen.per_model import LoadGenPerModel
from veltair.serving.loop.query import Ending, Query, QueryRecord

MIXED_SAMPLES = share_samples({"a": 1, "b": 3}, copies=4)
QOS_S = {"a": 0.5, "b": 1.0}

# The part of mlperf_loadgen that the child uses; `{steps}` is what its test does.
_SCRIPTED = """
import sys, threading, time
class TestSettings: pass
class TestScenario: Server = 0
class TestMode: PerformanceOnly = 0
class LogSettings:
    def __init__(self): self.log_output = TestSettings()
class Sample:
    def __init__(self, id): self.id, self.index = id, 0
calls, done = {{}}, threading.Event()
def ConstructSUT(issue, flush): calls.update(issue=issue, flush=flush)
def ConstructQSL(count, loaded, load, unload): calls.update(load=load)
def QuerySampleResponse(*arguments): pass
def QuerySamplesComplete(responses): done.set(); {on_complete}
def DestroyQSL(qsl): {on_destroy}
def DestroySUT(sut): pass
def load(): calls["load"]([0])
def issue(count):
    for number in range(count): calls["issue"]([Sample(number)])
def flush(): calls["flush"]()
def StartTestWithLogSettings(*arguments): {steps}
"""


def server_run(outdir: Path, **changes: Any) -> ServerRun:
    """Return 402 queries in two seconds to a mixed library."""
    settings: dict[str, Any] = {
        "qps": 200.0,
        "min_duration_ms": 2000,
        "min_query_count": 100,
        "seed": 12345,
        "sample_models": MIXED_SAMPLES,
        "target_latency_s": 0.5,
        "outdir": outdir,
    }
    return ServerRun(**{**settings, **changes})


def script_loadgen(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: str,
    on_complete: str = "pass",
    on_destroy: str = "pass",
) -> None:
    """Put a LoadGen before the real one whose test consists of `steps`, as lines of Python."""
    text = _SCRIPTED.format(steps=steps, on_complete=on_complete, on_destroy=on_destroy)
    (folder / "mlperf_loadgen.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


class FakeEngine:
    """Answers each query `answer_s` after its turn came, and rejects every tenth at once."""

    def __init__(self, sample_models: tuple[str, ...] = MIXED_SAMPLES, answer_s: float = 0.002) -> None:
        self.answer_s = answer_s
        self.sample_models = sample_models
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.arrivals: list[tuple[int, int, float]] = []
        self.readied = threading.Event()

    def start(self, loadgen: LoadGenProcess | LoadGenPerModel) -> None:
        """Start a LoadGen whose events come here."""
        loadgen.start(
            on_ready=self.readied.set,
            on_arrival=lambda *arrival: self.events.put(arrival),
            on_flush=lambda: self.events.put("flush"),
            on_failure=self.events.put,
        )

    def serve(self, loadgen: LoadGenProcess | LoadGenPerModel) -> tuple[list[QueryRecord], Any]:
        """Answer until something else than a query comes; return the records and that."""
        records = []
        while isinstance(event := self.events.get(timeout=60), tuple):
            self.arrivals.append(event)
            records.append(self.answer(loadgen, *event))
        return records, event

    def last_event(self) -> Any:
        """Return the next event that is no query; none is answered."""
        while isinstance(event := self.events.get(timeout=60), tuple):
            pass
        return event

    def failures(self) -> list[LoadGenError]:
        """Return the errors that have come so far."""
        events = []
        while not self.events.empty():
            events.append(self.events.get())
        return [event for event in events if isinstance(event, LoadGenError)]

    def answer(
        self, loadgen: LoadGenProcess | LoadGenPerModel, number: int, sample: int, received_s: float
    ) -> QueryRecord:
        """Complete or reject a query and return its record."""
        rejected = number % 10 == 9
        if not rejected:
            time.sleep(self.answer_s)
        loadgen.complete(number)
        model = self.sample_models[sample]
        return QueryRecord(
            query=Query(number, model, received_s, QOS_S[model]),
            ending=Ending.REJECTED if rejected else Ending.SERVED,
            start_s=received_s,
            end_s=time.monotonic(),
            blocks=0 if rejected else 2,
            conflicts=0 if rejected else 1,
            core_s=0.0 if rejected else 0.004,
            reason="full" if rejected else "",
        )


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, waiting for it up to a minute."""
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def loadgen_pids() -> list[int]:
    """Return the ids of the LoadGen processes that this one has started and that have not ended, by start."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if _runs_loadgen(int(pid))]


def _runs_loadgen(pid: int) -> bool:
    try:
        return "loadgen" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
