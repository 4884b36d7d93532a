"""Keys and values of earlier versions: what replaced each, for the message that refuses it."""

from collections.abc import Mapping
from typing import Any

# By path; NAME stands for names that the user gives.
REPLACED_KEYS: Mapping[str, str] = {
    "engine.launcher": "our workers run all kernels; rule `benchmarks_engine` compares them with TVM",
    "engine.malleable": "a running block keeps its cores until a layer ends, as the paper's blocks do",
    "figures.layers": "the layer with most MACs is shown of each model",
    "measured.max_rates": "all policies are measured at the rates of `measured.shares`",
    "measured.resolution": "intervals narrow with `measured.minutes`",
    "measured.validation": "it is called `measured.loadgen_per_model` now",
    "simulated.equal_headroom": "with `simulated.core_unit` another `alpha` is always assumed too",
    "study.conflicts.bins": "the run is always cut into 100 bins",
}

REPLACED_VALUES: Mapping[tuple[str, Any], str] = {
    ("preset", "shipped"): "it is called `tuned` now",
    ("policies.NAME.preset", "shipped"): "it is called `tuned` now",
}


def replaced_key(path: str) -> str | None:
    """Return what replaced a key that is gone; None if there never was one."""
    return next((text for key, text in REPLACED_KEYS.items() if _matches(path, key)), None)


def replaced_value(path: str, value: object) -> str | None:
    """Return what replaced a value that a key no longer takes; None if it never did."""
    for (key, old), text in REPLACED_VALUES.items():
        if value == old and _matches(path, key):
            return text
    return None


def _matches(path: str, key: str) -> bool:
    parts, names = path.split("."), key.split(".")
    same = all(name in ("NAME", part) for part, name in zip(parts, names, strict=False))
    return len(parts) == len(names) and same
