"""From what a source of interference shows to a pressure in [0, 1].

Three sources stand behind `InterferenceSource`: counters (`perf_stat.py`), a probe pair (`pressure_probe.py`)
and the observed slowdown of blocks, below. `choice.py` picks one; a `PressureFit` maps a
source's readings to the known pressure of a co-runner.
"""

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
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

    `start` may take seconds and comes before any load; the others never wait.
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


class SampledSource:
    """A source that takes its readings on a thread of its own, so that blocks teach it nothing."""

    name: str
    features: tuple[str, ...]

    def __init__(self, fit: PressureFit | None) -> None:
        """Check the fit. Raises ValueError if it is another source's."""
        check_fit(fit, self.name, self.features)
        self.fit = fit
        self._recent = RecentReadings()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the thread after its current reading; harmless if it is not running."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._recent = RecentReadings()

    def observe(self, measured_s: float, alone_s: float, pressed_s: float) -> None:
        """Do nothing: the readings tell."""

    def forget(self) -> None:
        """Do nothing: blocks teach it nothing."""

    def reading(self) -> Reading:
        """Return the median of the newest readings, by feature. Raises RuntimeError if the source broke."""
        return self._recent.middle()

    def _sample(
        self, read: Callable[[], None], readings: int, timeout_s: float, window: int = WINDOW
    ) -> None:
        """Run `read` on the thread, and wait until it has left so many readings.

        Stops and raises RuntimeError if it fails or takes longer.
        """
        self._stopping.clear()
        self._recent = RecentReadings(window)
        self._thread = threading.Thread(target=read, name=self.name, daemon=True)
        self._thread.start()
        try:
            self._recent.wait_for(readings, timeout_s)
        except RuntimeError:
            self.stop()
            raise


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
