"""From what a source of interference shows to a pressure in [0, 1].

Three sources stand behind `InterferenceSource`: counters (`perf_stat.py`), a probe pair (`pressure_probe.py`)
and the observed slowdown of blocks, below. `interference_choice.py` picks one, `interference_fit.py` fits a
source's readings to the known pressure of a co-runner.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

# The weight of the newest block in the average: a few blocks, so a change shows within one query or two.
NEWEST = 0.25
# Below this slowdown at full pressure the tables cannot tell a level from noise.
LEAST_EFFECT = 1.02
# A reading is the middle one of this many: one that was disturbed does not show.
WINDOW = 5

# A fit that explains less than this share of the variance on held-out co-runs is no better than a constant.
LEAST_R_SQUARED = 0.1

Reading = tuple[float, ...]


class InterferenceUnavailableError(RuntimeError):
    """A source cannot work on this machine; the message says why and what to do, in one line."""


class InterferenceSource(Protocol):
    """Says under what pressure the machine is.

    `start` may take seconds and comes before any load; the others never wait, but for `seconds_per_reading`.
    """

    name: str
    features: tuple[str, ...]

    def start(self) -> None:
        """Begin to read. Raises InterferenceUnavailableError if the source cannot work on this machine."""

    def stop(self) -> None:
        """End all that `start` began; harmless if it is not running."""

    def observe(self, measured_s: float, alone_s: float, pressed_s: float) -> None:
        """Learn from a block: its time, and its profiled times alone and at full pressure."""

    def forget(self) -> None:
        """Forget what blocks taught: a new run begins."""

    def reading(self) -> Reading:
        """Return the newest reading, one number a feature. Raises RuntimeError if the source broke down."""

    def pressure(self) -> float:
        """Return the pressure in [0, 1]. Raises RuntimeError if the source broke down."""

    def seconds_per_reading(self, readings: int) -> float:
        """Return the processor time that a reading costs, the mean of the next so many; waits for them."""


@dataclass(frozen=True, slots=True)
class PressureFit:
    """A linear map from a source's readings to pressure, with its quality on held-out co-runs.

    `mean_absolute_error` is in units of pressure. Coefficients are not negative: more reading, more pressure.
    """

    source: str
    features: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float
    r_squared: float
    mean_absolute_error: float

    def __post_init__(self) -> None:
        if not self.features or len(self.features) != len(self.coefficients):
            raise ValueError(
                f"PressureFit of {self.source}: {len(self.coefficients)} coefficients for the features "
                f"{self.features}; give one for each"
            )
        if not all(map(math.isfinite, (*self.coefficients, self.intercept))) or min(self.coefficients) < 0:
            raise ValueError(
                f"PressureFit of {self.source}: coefficients {self.coefficients} and intercept "
                f"{self.intercept} must be finite, coefficients at least 0"
            )

    @property
    def explains(self) -> bool:
        """Whether it tells more of the pressure than a constant does."""
        return self.r_squared >= LEAST_R_SQUARED

    def pressure(self, reading: Reading) -> float:
        """Return the pressure of a reading, clipped to [0, 1]. Raises ValueError if its length differs."""
        terms = zip(self.coefficients, reading, strict=True)
        return min(1.0, max(0.0, self.intercept + sum(weight * value for weight, value in terms)))

    def as_dict(self) -> dict[str, Any]:
        """Return the fit as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the fit that `as_dict` gave. Raises ValueError if it is none."""
        try:
            lists = {key: tuple(values[key]) for key in ("features", "coefficients")}
            return cls(**{**values, **lists})
        except (TypeError, LookupError) as error:
            raise ValueError(f"{dict(values)} is no fit of pressure: {error}; fit the source anew") from error


def check_fit(fit: PressureFit | None, name: str, features: tuple[str, ...]) -> None:
    """Raise ValueError if a fit is of another source or of other features."""
    if fit is not None and (fit.source, fit.features) != (name, features):
        raise ValueError(
            f"the fit is of {fit.source} {fit.features}, the source is {name} {features}; "
            "fit this source on this machine"
        )


class RecentReadings:
    """The newest readings that one thread takes, for another that must not wait for them.

    The writer leaves each result as one reference, which Python replaces at once: no lock is needed.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.count = 0
        self._window: deque[Reading] = deque(maxlen=window)
        self._middle: Reading | None = None
        self._failure: str | None = None

    def add(self, reading: Reading) -> None:
        """Take in a reading; in the writer's thread."""
        self._window.append(reading)
        self._middle = tuple(map(statistics.median, zip(*self._window, strict=True)))
        self.count += 1

    def fail(self, why: str) -> None:
        """Let every later `middle` raise RuntimeError with this message."""
        self._failure = why

    def middle(self) -> Reading:
        """Return the window's median, by feature. Raises RuntimeError if there is none, or on failure."""
        if self._failure is not None:
            raise RuntimeError(self._failure)
        if self._middle is None:
            raise RuntimeError("nothing has been read yet; start the source of interference first")
        return self._middle

    def wait_for(self, count: int, timeout_s: float) -> None:
        """Wait until so many readings were taken in all. Raises RuntimeError on failure or timeout."""
        end_s = time.monotonic() + timeout_s
        while self.count < count:
            if self._failure is not None:
                raise RuntimeError(self._failure)
            if time.monotonic() > end_s:
                raise RuntimeError(f"only {self.count} of {count} readings came within {timeout_s:g} s")
            time.sleep(0.001)


@dataclass(slots=True)
class ObservedSlowdown:
    """The proxy that needs no counters: how much longer blocks took than profiled alone, averaged.

    A block's slowdown is placed between those of the profile alone (pressure 0) and at its highest level (1).
    """

    name: str = "observed slowdown"
    _average: float = 0.0
    fit: PressureFit | None = None
    features: tuple[str, ...] = ("place between alone and full pressure",)

    def __post_init__(self) -> None:
        check_fit(self.fit, self.name, self.features)

    def start(self) -> None:
        """Do nothing: blocks are the readings."""

    def stop(self) -> None:
        """Do nothing."""

    def observe(self, measured_s: float, alone_s: float, pressed_s: float) -> None:
        """Learn from a block. One whose profile shows no effect of pressure teaches nothing."""
        if alone_s <= 0 or pressed_s < LEAST_EFFECT * alone_s:
            return
        index = (measured_s - alone_s) / (pressed_s - alone_s)
        self._average += NEWEST * (min(1.0, max(0.0, index)) - self._average)

    def forget(self) -> None:
        """Take the machine for quiet until blocks tell otherwise."""
        self._average = 0.0

    def reading(self) -> Reading:
        """Return the average place of the last blocks between alone and full pressure."""
        return (self._average,)

    def pressure(self) -> float:
        """Return that average, or what the fit makes of it."""
        return self._average if self.fit is None else self.fit.pressure(self.reading())

    def seconds_per_reading(self, readings: int) -> float:
        """Return the seconds that learning from a block takes, the mean of so many made-up ones."""
        twin = ObservedSlowdown()
        begin_s = time.thread_time()
        for _ in range(readings):
            twin.observe(1.5, 1.0, 2.0)
        return (time.thread_time() - begin_s) / readings
