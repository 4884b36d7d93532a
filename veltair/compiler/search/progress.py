"""How far a search is and how long it still takes, told to a terminal as a bar and to a log as lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search is: at structure `number` of `count`, with `done` of its `trials`.

    `trials_left` counts those of all structures; `seconds_per_trial` is a mean, None before any was measured.
    """

    structure: str
    number: int
    count: int
    done: int
    trials: int
    trials_left: int
    seconds_per_trial: float | None

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"Progress: structure {self.number} of {self.count}; give 1 to count")
        if min(self.done, self.trials, self.trials_left) < 0:
            raise ValueError(
                f"Progress: {self.done} of {self.trials}, {self.trials_left} left; give 0 or more"
            )

    @property
    def left_s(self) -> float | None:
        """The time left in seconds; None while no trial was measured."""
        return None if self.seconds_per_trial is None else self.trials_left * self.seconds_per_trial

    def __str__(self) -> str:
        """Return it in words."""
        where = f"structure {self.number} of {self.count}, trial {self.done} of {self.trials}"
        if self.seconds_per_trial is None or self.left_s is None:
            return where
        return f"{where}, {self.seconds_per_trial:.2f} s a trial, {in_words(self.left_s)} left"


def in_words(duration_s: float) -> str:
    """Return a duration, rounded to what one plans with: "1 h 52 min", "3 min", "20 s"."""
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(duration_s / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def reporting(stream: TextIO | None = None) -> Iterator[Callable[[Progress], None]]:
    """Give what tells a stream (stdout, if none is given) of progress: a bar on a terminal, else lines."""
    stream = stream or sys.stdout
    console = Console(file=stream)
    if not console.is_terminal:
        yield lambda progress: print(f"{progress}: {progress.structure}", file=stream, flush=True)
        return
    with Bar(BarColumn(), TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("searching", total=None)

        def show(progress: Progress) -> None:
            done = progress.number - 1 + (progress.done / progress.trials if progress.trials else 1)
            bar.update(task, description=str(progress), total=progress.count, completed=done)

        yield show
