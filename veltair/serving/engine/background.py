"""A thread for jobs that would hold up the decision thread, such as loading a model."""

import queue
import threading
from collections.abc import Callable

from veltair.serving.loop.backend import Event

Job = Callable[[], None]
OnDone = Callable[[], Event | None]
"""Called once a job has ended; returns what the loop is to hear of."""
# Does the first on another thread, then calls the second on the decision thread; never within the call.
InBackground = Callable[[Job, OnDone], None]


class BackgroundWorker:
    """A thread that does one job after the other; it starts with the first."""

    def __init__(self, done: Callable[[OnDone], None], failed: Callable[[Exception], None]) -> None:
        """Take what that thread calls after a job: `done` with its `on_done`, or `failed` with its error."""
        self._done, self._failed = done, failed
        self._jobs: queue.SimpleQueue[tuple[Job, OnDone] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def submit(self, job: Job, on_done: OnDone) -> None:
        """Do a job as soon as those submitted before are done."""
        self._jobs.put((job, on_done))
        if self._thread is None:
            # A daemon, for a job that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._serve, name="background", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Let the running job end, drop those that have not begun; return whether the thread is gone."""
        self._is_stopping = True
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _serve(self) -> None:
        while (submitted := self._jobs.get()) is not None and not self._is_stopping:
            job, on_done = submitted
            try:
                job()
            except Exception as error:  # the decision thread, which waits for the end, must hear of it
                self._failed(error)
            else:
                self._done(on_done)
