"""Which source of interference a run uses: the one that the configuration names, or the best that works."""

from collections.abc import Callable, Mapping
from pathlib import Path

from veltair.machine.interference.perf_stat import PerfStat
from veltair.machine.interference.pressure_probe import ProbePair
from veltair.machine.interference.source import (
    InterferenceSource,
    InterferenceUnavailableError,
    ObservedSlowdown,
    PressureFit,
)
from veltair.machine.topology.topology import Machine

AUTO = "auto"
Make = Callable[[], InterferenceSource]


def choose(
    choice: str, machine: Machine, build_dir: Path, fits: Mapping[str, PressureFit] | None = None
) -> tuple[InterferenceSource, str]:
    """Return the source of the key `engine.interference`, started, and a line about it for the log.

    `choice` is auto, perf, probe or slowdown; `fits` are this machine's, by the same keys. Choose before any
    load, and stop the source after. Raises as `start_source`.
    """
    return start_source(choice, sources(machine, build_dir, fits or {}), fits)


def sources(machine: Machine, build_dir: Path, fits: Mapping[str, PressureFit]) -> dict[str, Make]:
    """Return how each source is made, by its key in the configuration, the best first.

    Counters see all traffic of all cores, the probe what is left of cache and memory for one, and the
    slowdown only what the blocks of this engine met. `fits` are by the same keys.
    """
    return {
        "perf": lambda: PerfStat(machine, fit=fits.get("perf")),
        "probe": lambda: ProbePair(machine, build_dir, fit=fits.get("probe")),
        "slowdown": lambda: ObservedSlowdown(fit=fits.get("slowdown")),
    }


def start_source(
    choice: str, candidates: Mapping[str, Make], fits: Mapping[str, PressureFit] | None = None
) -> tuple[InterferenceSource, str]:
    """Return a source that has been started, and a line that says which and why the others are not it.

    `auto` takes the first candidate that starts. One whose fit explains too little of held-out co-runs does
    not work either. Raises InterferenceUnavailableError if the named source does not work, or
    none, and ValueError for an unknown name.
    """
    if choice != AUTO and choice not in candidates:
        raise ValueError(f"there is no source of interference {choice!r}; give {AUTO} or {list(candidates)}")
    refused = []
    for key in candidates if choice == AUTO else [choice]:
        fit = (fits or {}).get(key)
        if choice == AUTO and fit is not None and not fit.explains:
            refused.append(
                f"not {key}: its fit explains too little of held-out co-runs (R² {fit.r_squared:.2g})"
            )
            continue
        try:
            source = candidates[key]()
            source.start()
        except InterferenceUnavailableError as error:
            refused.append(f"not {key}: {error}")
            continue
        return source, _line(choice, source.name, fit, refused)
    raise InterferenceUnavailableError(
        f"no source of interference works (`engine.interference: {choice}`): {'; '.join(refused)}"
    )


def _line(choice: str, name: str, fit: PressureFit | None, refused: list[str]) -> str:
    scale = "not fitted" if fit is None else f"fitted, R² {fit.r_squared:.2f} on held-out co-runs"
    why = "as configured" if choice != AUTO else "the best that works here"
    return " ".join("; ".join([f"interference: {name} ({why}, {scale})", *refused]).split())
