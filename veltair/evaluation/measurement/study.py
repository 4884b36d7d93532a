"""What is measured: a policy with its models on this machine, and how one rate is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veltair.evaluation.experiment.scenario import MakePolicy, Scenario, scenario_columns
from veltair.evaluation.metrics.records import Run
from veltair.machine.interference.source import InterferenceSource
from veltair.machine.models.library import LoadedModel
from veltair.machine.models.model_memory import ModelMemory
from veltair.machine.workers.pool import Launch, Sample
from veltair.serving.policies.presets import PolicySource


@dataclass(frozen=True, slots=True)
class MeasurementSettings:
    """How one rate is measured: for `seconds` and as many queries, both at least.

    `drain_qos` is how long unfinished queries may still run after it. `loadgen_per_model` asks with one for
    each model; `timeline` records which block ran where, and keeps the log of the run; `placement` is a name
    of PLACEMENTS.
    """

    seconds: float
    seed: int
    drain_qos: float
    queries: int = 1
    loadgen_per_model: bool = False
    timeline: bool = False
    placement: str = "spread"


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One policy on this machine: what all of its runs share.

    `samples` are a model and its input by LoadGen's sample index. `launch` starts the workers.
    `interference` has been started; what it learnt from the blocks of one run it forgets before the next.
    Without a `memory` all models are loaded. `source` tells how the policy was made, for logs of runs.
    """

    scenario: Scenario
    policy: str
    make: MakePolicy
    models: Mapping[str, LoadedModel]
    samples: Sequence[tuple[str, Sample]]
    settings: MeasurementSettings
    launch: Launch
    interference: InterferenceSource
    memory: ModelMemory | None = None
    source: PolicySource | None = None

    def run_at(self, qps: float) -> Run:
        """Return what the run at a rate is called."""
        columns = scenario_columns(self.scenario, "engine", True)
        return Run(**columns, policy=self.policy, qps=qps, seed=self.settings.seed)
