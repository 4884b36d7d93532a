"""Work that would hold up the thread that decides, done beside it."""

import queue
import threading
from collections.abc import Callable

Work = Callable[[], None]
# Does the first elsewhere, then calls the second on the thread that decides; never within the call itself.
InBackground = Callable[[Work, Work], None]


class BackgroundWorker:
    """A thread that does one piece of work after the other; it starts with the first."""

    def __init__(self, done: Callable[[Work], None], failed: Callable[[Exception], None]) -> None:
        """Begin. Both are called on that thread: with what is to follow, or why the work failed."""
        self._done, self._failed = done, failed
        self._work: queue.SimpleQueue[tuple[Work, Work] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def do(self, work: Work, then: Work) -> None:
        """Do some work as soon as what was asked before is done."""
        self._work.put((work, then))
        if self._thread is None:
            # A daemon, for work that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._serve, name="aside", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Let the work under way end, drop what has not begun; return whether the thread is gone."""
        self._is_stopping = True
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _serve(self) -> None:
        while (asked := self._work.get()) is not None and not self._is_stopping:
            work, then = asked
            try:
                work()
            except Exception as error:  # whoever waits for the end of it must hear of it
                self._failed(error)
            else:
                self._done(then)
