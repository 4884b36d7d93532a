"""The earliest deadline first, whole models on their fewest cores, and nothing spent on what is lost.

Source: earliest deadline first of Liu and Layland, Journal of the ACM 1973, on the whole-model blocks of
`FcfsMin`. It uses none of VELTAIR's ideas: a simple baseline for them.

Paper: earliest deadline first (Liu and Layland, JACM 1973).
Unit: whole model.
Preemption: none.
Cores: fewest that meet the target alone.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Mapping
from typing import ClassVar

from baselines.fcfs_min import FcfsMin
from veltair.serving.policies.discipline import DropLate, Order


class EdfMin(FcfsMin):
    """`FcfsMin` whose presets order by deadline and drop a query once it is doomed."""

    preset_exceptions: ClassVar[Mapping[str, object]] = {
        **FcfsMin.preset_exceptions,
        "order": Order.EDF.value,
        "drop_late": DropLate.WHEN_DOOMED.value,
    }
