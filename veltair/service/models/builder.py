"""Has uploaded models built, one at a time, each in a confined process that may die without harm.

What the process says is not believed further than it can do harm: a state that follows the last one, and a
reason that is cut to a line.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from veltair.service.keys.builder_keys import BuilderKeys
from veltair.service.models.building import BuildOrder, readable
from veltair.service.models.registry import State
from veltair.service.models.store import MODEL, Store, StoreError

OnState = Callable[[State], None]
# Of a line that the process says.
LONGEST_LINE = 4096
REAP_S = 5.0
_STATES = (State.CHECKING, State.COMPILING, State.PROFILING)
PROGRAM = (sys.executable, "-m", "veltair.service.models.building")
# Of the environment; all else, as tokens of the operator's, is not the process's.
_KEPT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Built:
    """How a build ended: the seconds that it took, and why it failed; an empty reason: it did not."""

    seconds: float
    reason: str = ""


class Builder:
    """Starts the processes and takes over what they built."""

    def __init__(
        self,
        store: Store,
        keys: BuilderKeys,
        machine: Path,
        native: Path,
        logs: Path,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """`machine` describes this machine, `native` holds its compiled C, of which each build has a copy.

        `program` reads an order and says what `building.py` says.
        """
        self._program = program
        self._store, self._keys = store, keys
        self._machine, self._native, self._logs = machine, native, logs

    async def build(self, place: str, on_state: OnState) -> Built:
        """Build the model of a place of the store, and publish it there."""
        start_s = time.monotonic()
        folder = self._store.workplace()
        try:
            reason = await self._run(place, folder, on_state)
            if not reason:
                self._store.publish(place, folder)
        except StoreError as error:
            reason = str(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return Built(time.monotonic() - start_s, reason)

    async def _run(self, place: str, folder: Path, on_state: OnState) -> str:
        if self._native.is_dir():
            shutil.copytree(self._native, folder / "native")
        (folder / "tmp").mkdir()
        self._logs.mkdir(parents=True, exist_ok=True)
        order = BuildOrder(
            model=str(self._store.folder(place) / MODEL),
            folder=str(folder),
            machine=str(self._machine),
            log=str(self._logs / f"{place[:12]}.log"),
            keys=self._keys.model_dump(mode="json"),
        )
        process = await asyncio.create_subprocess_exec(
            *self._program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
            limit=LONGEST_LINE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._keys.seconds):
                assert process.stdin is not None
                process.stdin.write(order.written())
                with contextlib.suppress(ConnectionError):
                    await process.stdin.drain()
                ending = await _listen(process, on_state)
                if ending is None:
                    await _reap(process)  # so that it is known what it died of
        except TimeoutError:
            return f"building it took longer than builder.seconds, {self._keys.seconds:g}, allow"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await _reap(process)
        return ending if ending is not None else _death(process.returncode)


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process, of which asyncio hears only once all that it said is read.

    One that it left behind elsewhere may hold that up; it is not waited for.
    """
    assert process.stdout is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_S):
            while await process.stdout.read(LONGEST_LINE):
                pass
            await process.wait()


async def _listen(process: asyncio.subprocess.Process, on_state: OnState) -> str | None:
    """Pass the states on; return the reason of a refusal, "" for a model that is built, None for no word."""
    assert process.stdout is not None
    left = list(_STATES)
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            return "the builder said more than it may"
        if not line:
            return None
        said = _said(line)
        if "done" in said:
            return ""
        if "refused" in said:
            return readable(said["refused"])
        if left and said.get("state") == left[0]:
            on_state(left.pop(0))


def _said(line: bytes) -> dict[str, str]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _death(code: int | None) -> str:
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        return "building it took more time on the cores than builder.cpu_seconds allow"
    if code == -signal.SIGXFSZ:
        return "building it writes a larger file than builder.file_mb allows"
    return "building it ended without a word, as for lack of memory; the operator's log says more"


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    temporary = str(folder / "tmp")
    return kept | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "tmp"), "TMPDIR": temporary}
