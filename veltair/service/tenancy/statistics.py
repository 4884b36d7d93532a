"""What became of requests, by model and by tenant: counts and sums of times, which only grow."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Spent(NamedTuple):
    """How many times something was done, and its nanoseconds in all."""

    times: int = 0
    ns: int = 0

    def plus(self, seconds: float) -> "Spent":
        """Return it with one time more."""
        return Spent(self.times + 1, self.ns + round(seconds * 1e9))


NOTHING = Spent()


@dataclass(slots=True)
class ModelStatistics:
    """Of one version of a model. Times of a request: in all, in queues, and of its steps.

    `late` are answers after their deadline, which count as successes too. `last_ms` is when the last ended,
    in milliseconds since 1970.
    """

    success: Spent = NOTHING
    fail: Spent = NOTHING
    queue: Spent = NOTHING
    compute_input: Spent = NOTHING
    compute_infer: Spent = NOTHING
    compute_output: Spent = NOTHING
    late: int = 0
    last_ms: int = 0

    def served(
        self, total_s: float, queue_s: float, input_s: float, infer_s: float, output_s: float, time_s: float
    ) -> None:
        """Count an answer. Times are seconds, `time_s` since 1970."""
        self.success = self.success.plus(total_s)
        self.queue = self.queue.plus(queue_s)
        self.compute_input = self.compute_input.plus(input_s)
        self.compute_infer = self.compute_infer.plus(infer_s)
        self.compute_output = self.compute_output.plus(output_s)
        self.last_ms = round(time_s * 1e3)

    def failed(self, total_s: float, time_s: float) -> None:
        """Count a request that was not answered."""
        self.fail = self.fail.plus(total_s)
        self.last_ms = round(time_s * 1e3)


@dataclass(slots=True)
class TenantStatistics:
    """Of one tenant: requests by their ending ("served", "late", or the trouble), core-seconds held."""

    endings: Counter[str] = field(default_factory=Counter)
    core_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number of the service that goes up and down, or a counter that is another's."""

    name: str
    kind: str
    meaning: str
    values: Mapping[str, float]  # by tenant; "" for the service


def prometheus(tenants: Mapping[str, TenantStatistics], gauges: tuple[Gauge, ...]) -> str:
    """Return the metrics of tenants and service in Prometheus' text format, version 0.0.4."""
    lines = [
        "# HELP veltair_requests_total Requests for inference by how they ended.",
        "# TYPE veltair_requests_total counter",
    ]
    for name, one in sorted(tenants.items()):
        for ending, count in sorted(one.endings.items()):
            lines.append(f'veltair_requests_total{{tenant="{name}",ending="{ending}"}} {count}')
    lines += [
        "# HELP veltair_core_seconds_total Core-seconds that requests held.",
        "# TYPE veltair_core_seconds_total counter",
        *(
            f'veltair_core_seconds_total{{tenant="{name}"}} {one.core_s!r}'
            for name, one in sorted(tenants.items())
        ),
    ]
    for gauge in gauges:
        lines += [f"# HELP {gauge.name} {gauge.meaning}", f"# TYPE {gauge.name} {gauge.kind}"]
        for name, value in sorted(gauge.values.items()):
            labels = f'{{tenant="{name}"}}' if name else ""
            lines.append(f"{gauge.name}{labels} {value!r}")
    return "\n".join(lines) + "\n"
