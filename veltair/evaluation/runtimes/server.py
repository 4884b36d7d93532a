"""A runtime as a server of slots: its process, started once, and what it is told and says."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from veltair.evaluation.loadgen.client import END_TIMEOUT_S
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.core_use import CoreUse
from veltair.evaluation.measurement.rounds import ServedSlot
from veltair.evaluation.measurement.run_quality import RunQuality
from veltair.evaluation.measurement.slots import Slot
from veltair.evaluation.measurement.write_run import QUERIES
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.runtimes.process import SETTLE_S, Field, field_text
from veltair.evaluation.runtimes.registry import Runtime

FIELD_FILE, OUTPUT_FILE = "field.json", "runtime_output.txt"
MODULE = "veltair.evaluation.runtimes.process"
LOAD_TIMEOUT_S = 600.0  # BERT-Large on 64 sessions takes minutes
STOP_S = 10.0


class ServedRuntimeError(RuntimeError):
    """A runtime's process failed; the message says what it wrote."""


class RuntimeServer:
    """A runtime in a process of its own, up while the context lasts, whose threads wait between slots."""

    def __init__(self, field: Field, runtime: Runtime, folder: Path) -> None:
        """Take what is served; what the process writes goes into the folder, which is made."""
        self._field, self._runtime, self._folder = field, runtime, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: TextIO | None = None
        self._outcomes = -1
        self._unread = b""

    def __enter__(self) -> Self:
        """Start the process, and return once all answers were right.

        Raises ServedRuntimeError if it fails.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / FIELD_FILE
        path.write_text(
            field_text(self._field, self._runtime.name, self._runtime.backend, self._runtime.options)
        )
        orders, given = os.pipe()
        self._outcomes, told = os.pipe()
        self._orders = os.fdopen(given, "w")
        with (self._folder / OUTPUT_FILE).open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(path), str(orders), str(told)],
                pass_fds=[orders, told],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        os.close(orders)
        os.close(told)
        try:
            self._outcome(LOAD_TIMEOUT_S)
        except ServedRuntimeError:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stop()

    def serve(self, slot: Slot, folder: Path) -> ServedSlot:
        """Return what became of a slot. Raises LoadGenError, or ServedRuntimeError if the runtime failed."""
        assert self._orders is not None
        folder.mkdir(parents=True, exist_ok=True)
        order = {"qps": slot.qps, "seed": slot.seed, "folder": str(folder.resolve())}
        try:
            print(json.dumps(order), file=self._orders, flush=True)
        except BrokenPipeError:
            raise self._failure() from None
        field = self._field
        # Ten times what the schedule takes in the mean is beyond any luck.
        seconds = max(field.seconds, 10.0 * field.queries / slot.qps) + field.drain_s
        outcome = self._outcome(seconds + SETTLE_S + 2 * END_TIMEOUT_S)
        if "failure" in outcome:
            raise LoadGenError(outcome["failure"])
        quality = {**outcome["quality"], "use": CoreUse(**outcome["quality"]["use"])}
        return ServedSlot(read_records(folder / QUERIES), RunQuality(**quality), facts=outcome["facts"])

    def _outcome(self, timeout_s: float) -> dict[str, Any]:
        """Return the next line that the process writes."""
        while b"\n" not in self._unread:
            if not select.select([self._outcomes], [], [], timeout_s)[0]:
                raise ServedRuntimeError(f"{self._runtime.name} did not answer in {timeout_s:.0f} s")
            if not (part := os.read(self._outcomes, 1 << 16)):
                raise self._failure()
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _failure(self) -> ServedRuntimeError:
        assert self._process is not None
        code = self._process.wait(STOP_S)
        said = (self._folder / OUTPUT_FILE).read_text(errors="replace").strip().splitlines()[-1:]
        return ServedRuntimeError(f"{self._runtime.name} ended with exit status {code}: {' '.join(said)}")

    def _stop(self) -> None:
        """End the process, which ends with the pipe of its orders."""
        if self._orders is not None:
            self._orders.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        os.close(self._outcomes)
