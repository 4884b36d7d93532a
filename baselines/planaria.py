"""Planaria's elastic shares of the machine, on cores instead of systolic subarrays.

Source: Ghodrati et al., Planaria, MICRO 2020, and its public scheduler; what the port changes is said in
`veltair.serving.policies.elastic`.

`reshare_s` is what AuRORA (Kim et al., MICRO 2023) adds to such shares: its virtualised accelerators are
given and taken so cheaply that shares follow the slack while queries run, and not only as they come and go.
Here they are made anew that often, and taken up at layer ends like any other. What a change costs, the
backend charges (`simulated.resize_cost_us`), to all policies alike: a cheaper one is set there.

Paper: Planaria (Ghodrati et al., MICRO 2020); `reshare_s` as AuRORA (Kim et al., MICRO 2023).
Unit: whole model, resized at layer ends.
Preemption: shrinks at layer ends, to one core unit at least.
Cores: shares by slack and time left.
Memory: not managed.
"""

from collections.abc import Sequence
from math import inf
from typing import Annotated

from pydantic import Field

from veltair.serving.loop.policy import Allocation, Answer, Context, Snapshot, Wake
from veltair.serving.policies.discipline import QueueOptions
from veltair.serving.policies.elastic import ElasticPolicy
from veltair.serving.policies.latency_tables import VersionRule
from veltair.serving.policies.native_spec import NativePolicySpec


class Planaria(ElasticPolicy):
    """Elastic core shares, blind to interference: the solo versions and their times alone.

    Versions: solo.
    """

    def __init__(
        self,
        context: Context,
        options: QueueOptions,
        *,
        reshare_s: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__(context, options, VersionRule.SOLO_ALONE)
        self._reshare_s = reshare_s
        self._next_s = -inf

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return starts on free cores, resizes towards the shares, and when shares are made anew."""
        if self._reshare_s is None:
            return super().allocate(snapshot)
        is_due = snapshot.time_s >= self._next_s
        if is_due:
            self.renew()
        answers = super().allocate(snapshot)
        starts = any(isinstance(answer, Allocation) for answer in answers)
        if not is_due or not (snapshot.running or starts):
            return answers
        self._next_s = snapshot.time_s + self._reshare_s
        return [*answers, Wake(self._next_s)]

    def native_spec(self) -> NativePolicySpec | None:
        """Return how it decides, as data; None if shares are made anew, which C does not know."""
        return super().native_spec() if self._reshare_s is None else None


class PlanariaAware(ElasticPolicy):
    """Planaria that knows the pressure but has one version: the ablation between Planaria and Veltair-AC.

    Paper: an ablation of Planaria (Ghodrati et al., MICRO 2020).
    Versions: solo, its times at the current pressure.
    """

    def __init__(self, context: Context, options: QueueOptions) -> None:
        super().__init__(context, options, VersionRule.SOLO_AT_LEVEL)
