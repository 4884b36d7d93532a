"""What every script of the workflow begins with: its job, its log, and one clear line if it fails."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from veltair.evaluation.experiment.supervision import end_if_supervised
from veltair.terminal import print_utf8


class _Tee:
    """Writes to the log and to the terminal, so that a person sees progress and finds it later."""

    def __init__(self, *streams: Any) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        """Write to all streams."""
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush all streams."""
        for stream in self._streams:
            stream.flush()


@contextmanager
def logged(log: str) -> Iterator[None]:
    """Copy what is printed into a log; an error ends the script with its message, its trace in the log."""
    path = Path(log)
    print_utf8()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("w", encoding="utf-8") as file,
        redirect_stdout(_Tee(sys.stdout, file)),
        redirect_stderr(_Tee(sys.stderr, file)),
    ):
        try:
            yield
        except Exception as error:
            traceback.print_exc(file=file)
            file.flush()
            message = f"error: {str(error) or type(error).__name__}\n(the trace is in {path})"
            end_if_supervised(message)
            sys.exit(message)
