"""The earliest deadline first, whole models on their fewest cores, and nothing spent on what is lost.

Source: earliest deadline first of Liu and Layland, Journal of the ACM 1973, on the whole-model blocks of
`FcfsMin`. It has no idea of VELTAIR's: an honest simple rival.
"""

from baselines.fcfs_min import FcfsMin


class EdfMin(FcfsMin):
    """`FcfsMin` whose presets order by deadline and drop a query once it is doomed."""

    plan = FcfsMin.plan
