"""Made-up tables of what choosing versions by pressure gains."""

from collections.abc import Mapping

import pandas as pd

MODELS = {"light": "mobilenet_v2", "heavy": "bert_large"}
MACHINE = {"machine": "threadripper-3990x", "validated": False}


def choice_rows(gains: Mapping[tuple[str, str, bool], float]) -> pd.DataFrame:
    """Return rows of version_choice.csv: `gains` by assumption, label and whether that is plausible.

    They are of light models on 8 cores at full pressure; on 32 cores or at half of the pressure they are half
    as large, and heavy models gain nothing. The first assumption is the machine as described.
    """
    rows = []
    for place, ((assumption, label, plausible), gain) in enumerate(gains.items()):
        for workload, model in MODELS.items():
            for cores in (8, 32):
                for level in (0.5, 1.0):
                    own = gain * (0.5 if cores == 32 else 1) * level * (workload == "light")
                    rows.append(
                        {"model": model, "cores": cores, "level": level, "slowdown": 1 + level}
                        | {"layers": 10, "changed": 4, "gaining": 2}
                        | {"gain_most": 2 * own, "gain": own, "gain_over_solo": 1.5 * own}
                        | {"assumption": assumption, "label": label, "is_default": place == 0}
                        | {"plausible": plausible, **MACHINE}
                    )
    return pd.DataFrame(rows)


def layer_rows() -> pd.DataFrame:
    """Return rows of version_layers.csv: a layer a class, whose version 1 bears pressure better."""
    return pd.DataFrame(
        [
            {"workload": workload, "model": model, "layer": 3, "name": "003-conv2d", "saved": 0.1}
            | {"version": version, "parallelism": 8, "blocking_bytes": 1000, "cores": cores, "level": level}
            | {"seconds": (1e-4, 1.2e-4)[version] * (1 + (1.0, 0.1)[version] * level) * 8 / cores, **MACHINE}
            for workload, model in MODELS.items()
            for version in (0, 1)
            for cores in (8, 32, 56)
            for level in (0.0, 0.5, 1.0)
        ]
    )
