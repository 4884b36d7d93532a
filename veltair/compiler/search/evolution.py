"""MetaSchedule's evolutionary search of one structure, taken apart so that every batch can be kept."""

import logging
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm_ffi
from tvm import s_tir
from tvm.error import InternalError
from tvm.ir import IRModule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir import renew_defs
from tvm.tirx import PrimFunc

INTRINSICS = "tvm.s_tir.tensor_intrin"
# So often may all proposed candidates be known already, before no more are expected.
MOST_KNOWN_ROUNDS = 5
# What applying a trace or a last step to a function raises if it does not fit.
REFUSED = (InternalError, s_tir.ScheduleError, RuntimeError, ValueError, TypeError, LookupError)


class Evolution:
    """Proposes candidates of a structure and learns from their times.

    `seed` decides the proposals, together with what was learned.
    """

    def __init__(
        self, function: Any, target: Any, *, population: int, generations: int, batch: int, seed: int
    ) -> None:
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=population, genetic_num_iters=generations, init_min_unmeasured=batch
        )
        with _without_intrinsics():
            self._context = ms.TuneContext(
                mod=module_of(function),
                target=target,
                # Finding the rules from the target would import TVM's tensor intrinsics, too.
                space_generator=ms.space_generator.PostOrderApply(
                    sch_rules="llvm", postprocs="llvm", mutator_probs="llvm"
                ),
                search_strategy=strategy,
                task_name="main",
                rand_state=seed,
                num_threads=len(os.sched_getaffinity(0)),
                logger=logging.getLogger("veltair.evolution"),
            )
        self._target, self._batch = target, batch
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._context.mod)
        # Its default, random guesses for the first 100 trials, would leave it no part in a search of 128.
        self._model = ms.cost_model.XGBModel(
            num_warmup_samples=batch, num_tuning_cores=len(os.sched_getaffinity(0))
        )
        self._known: set[int] = set()

    def start(self, trials: int) -> None:
        """Prepare to propose up to so many candidates. Raises what TVM raises if it finds no design space."""
        spaces = self._context.generate_design_space()
        self._context.pre_tuning(trials, min(self._batch, trials), spaces, self._database, self._model)

    def propose(self) -> list[Any]:
        """Return the next batch of candidates that were not learned; empty if there are no more."""
        for _ in range(MOST_KNOWN_ROUNDS):
            proposed = self._context.generate_measure_candidates()
            if proposed is None:
                return []
            fresh = [one for one in proposed if _hash(one.sch) not in self._known]
            if fresh:
                return fresh
        return []

    def learn(
        self, candidates: Sequence[Any], run_seconds: Sequence[Sequence[float]], proposed: bool
    ) -> None:
        """Take in the times of candidates (none: it failed); `proposed` says that they are from `propose`."""
        results = [
            ms.runner.RunnerResult(list(seconds), None)
            if seconds
            else ms.runner.RunnerResult(None, "it failed")
            for seconds in run_seconds
        ]
        if proposed:
            self._context.notify_runner_results(list(candidates), results)
        for one, seconds in zip(candidates, run_seconds, strict=True):
            self._known.add(_hash(one.sch))
            if seconds and (proposed or self._can_evolve(one.sch)):
                self._commit(one, seconds)
        self._model.update(self._context, list(candidates), results)

    def _commit(self, candidate: Any, seconds: Sequence[float]) -> None:
        self._database.commit_tuning_record(
            ms.database.TuningRecord(
                candidate.sch.trace, self._workload, list(seconds), self._target, candidate.args_info
            )
        )

    def _can_evolve(self, schedule: Any) -> bool:
        """Return whether the last steps of the search apply to a schedule; else TVM gives the search up."""
        again = s_tir.Schedule(self._context.mod, debug_mask="none")
        try:
            schedule.trace.apply_to_schedule(again, remove_postproc=True)
            again.enter_postproc()
            return all(step.apply(again) for step in self._context.space_generator.postprocs)
        except REFUSED:
            return False


def measurable(schedule: Any) -> Any:
    """Return a schedule as a candidate to be measured."""
    return ms.MeasureCandidate(schedule, ms.arg_info.ArgInfo.from_entry_func(schedule.mod))


def replayed(function: Any, trace: Any) -> Any:
    """Return the schedule of a function with a trace applied to it."""
    schedule = s_tir.Schedule(module_of(function), debug_mask="none")
    s_tir.Trace.apply_json_to_schedule(trace, schedule)
    return schedule


def module_of(function: PrimFunc) -> IRModule:
    """Return a function as a module of its own, under the name "main"."""
    # A schedule may rewrite the very function it was made from (seen with rfactor): give it one of its own.
    return IRModule({"main": renew_defs(function).with_attr("global_symbol", "main")})


def _hash(schedule: Any) -> int:
    return int(tvm_ffi.structural_hash(schedule.mod, map_free_vars=True))


@contextmanager
def _without_intrinsics() -> Iterator[None]:
    """Keep a TuneContext from importing TVM's tensor intrinsics: 12 s, and these rules never use them."""
    if INTRINSICS in sys.modules:
        yield
        return
    sys.modules[INTRINSICS] = types.ModuleType(INTRINSICS)
    try:
        yield
    finally:
        del sys.modules[INTRINSICS]
