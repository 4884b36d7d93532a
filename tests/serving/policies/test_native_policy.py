"""Decisions in C against those in Python on any state that a random policy makes of a run, yields and all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import make_context, make_model
from tests.support.serving.random_policies import Capricious
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Answer, Context, Rejection, Resize, Snapshot, Yield
from veltair.serving.loop.python_decider import PythonDecider
from veltair.serving.loop.query import Query
from veltair.serving.policies.discipline import late_reason
from veltair.serving.policies.native_policy import NativePolicy
from veltair.serving.policies.native_spec import spec_of
from veltair.serving.policies.presets import make_policy
from veltair.serving.simulator import native_loop
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

PATH = "baselines.preemptive_edf:PreemptiveEdf"


def few_cores(rng: np.random.Generator) -> Context:
    """Return models whose layers suit a few of 8 cores, in one version."""
    counts, models, seconds = np.arange(1, 9), [make_model("long", [1] * 6), make_model("short", [1] * 2)], {}
    for model in models:
        work = rng.uniform(0.5, 2.0, len(model.layers))
        seconds[model.name] = (work[:, None] / np.minimum(counts, rng.integers(1, 9)))[:, None, :, None]
    return make_context(seconds, models)


class Seeing(PythonDecider):
    """Remembers the view of the decision under way."""

    view: Any = None

    def _decide(self, view: Any, commands: Any) -> int:
        Seeing.view = view
        return super()._decide(view, commands)


class Compared:
    """Asks a policy in Python and in C what they would do at each decision, then does something else."""

    def __init__(self, context: Context, library: Any, options: dict[str, Any], seed: int) -> None:
        self._policy = make_policy(PATH, context, "paper", options)
        spec = spec_of(self._policy)
        assert spec is not None
        self._native, self._library = NativePolicy(spec, context, library), library
        self._names, self._random = list(context.models), Capricious(context, seed, wake_s=0.4)
        self.answers: list[Answer] = []

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return random answers. Raises AssertionError where the decisions differ."""
        answers = list(self._policy.allocate(snapshot))
        assert self._in_c(snapshot.time_s) == [whole(answer) for answer in answers]
        self.answers += answers
        return self._random.allocate(snapshot)

    def _in_c(self, time_s: float) -> list[Answer]:
        decider, commands = self._native.decider, self._library.ffi.new("commands_t *")
        assert decider.decide(decider.self, Seeing.view, commands) == self._library.functions.OK
        return [self._answer(commands.items[index]) for index in range(commands.count)]

    def _answer(self, command: Any) -> Answer:
        c, account = self._library.functions, command.account
        if command.kind == c.REJECT:
            return Rejection(account.id, late_reason(command.slack_s, command.least_s))
        if command.kind == c.YIELD:
            return Yield(account.id)
        if command.kind == c.RESIZE:
            layers = account.stop - account.first
            return Resize(account.id, command.cores, self._versions(command, layers))
        block = LayerBlock(self._names[account.model], account.next_layer, command.stop)
        versions = self._versions(command, len(block))
        assert versions is not None
        return Allocation(account.id, block, versions, command.cores, command.wanted)

    def _versions(self, command: Any, layers: int) -> tuple[int, ...] | None:
        if not command.versions:
            return None
        return tuple(bytes(self._library.ffi.buffer(command.versions, layers)))


def whole(answer: Answer) -> Answer:
    """Return an answer with what it leaves open filled in as C has it."""
    if isinstance(answer, Allocation) and answer.wanted_cores is None:
        return Allocation(answer.query_id, answer.block, answer.versions, answer.cores, answer.cores)
    return answer


def compared(seed: int, gap_s: float, options: dict[str, Any]) -> list[Answer]:
    """Return what was answered, alike, all through a run."""
    rng = np.random.default_rng(seed)
    served = few_cores(rng)
    times = rng.exponential(gap_s, 30).cumsum().tolist()
    targets_s = rng.choice([1.0, 3.0, 10.0, 30.0], len(times)).tolist()
    arrivals = [
        Query(index, ("long", "short")[int(rng.integers(2))], at, target_s)
        for index, (at, target_s) in enumerate(zip(times, targets_s, strict=True))
    ]
    simulator = Simulator(arrivals, served, noise_batches(arrivals, served, rng), drain_s=100.0)
    policy = Compared(served, simulator.core.library, options, seed)  # type: ignore[attr-defined]
    list(native_loop.serve_simulated(policy, served, simulator))
    return policy.answers


@pytest.fixture(autouse=True)
def seeing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_loop, "PythonDecider", Seeing)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 10_000),
    gap_s=st.sampled_from([0.1, 0.4, 1.0]),
    options=st.fixed_dictionaries(
        {
            "alpha": st.sampled_from([1.0, 0.5]),
            "drop_late": st.sampled_from(["never", "at_deadline", "when_doomed"]),
            "growth": st.booleans(),
        }
    ),
)
def test_both_answer_alike_whatever_the_state(seed: int, gap_s: float, options: dict[str, Any]) -> None:
    compared(seed, gap_s, options)


@pytest.mark.parametrize("kind", [Allocation, Rejection, Resize, Yield])
def test_each_kind_of_answer_is_among_them(kind: type[Answer]) -> None:
    answers = [one for seed in range(8) for one in compared(seed, 0.4, {"growth": True})]
    assert sum(isinstance(answer, kind) for answer in answers) >= 5
