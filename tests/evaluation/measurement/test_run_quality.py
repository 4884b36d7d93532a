from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from veltair.evaluation.loadgen.logs import LOADGEN
from veltair.evaluation.measurement.core_use import UNKNOWN
from veltair.evaluation.measurement.run_quality import RunQuality, run_quality
from veltair.machine.workers.priorities import Promptness

USE = replace(UNKNOWN, others=0.02, steal=0.01)


def summary(problem: str = "") -> Any:
    """What LoadGen says of a run, as far as its quality goes."""
    return SimpleNamespace(
        problem=problem,
        issue_delay_p50_s=0.001,
        issue_delay_p99_s=0.002,
        delivery_p99_s=0.003,
        promptness=Promptness.NORMAL,
        client=LOADGEN,
    )


def test_a_run_without_a_problem_says_something() -> None:
    quality = run_quality(summary(), UNKNOWN)
    assert (quality.problem, quality.wrong_answers) == ("", 0)


def test_wrong_answers_are_told_before_a_late_loadgen() -> None:
    problem = run_quality(summary("LoadGen was late"), UNKNOWN, wrong_answers=3).problem
    assert problem == "3 wrong answers: build the models anew (rule `build`)"


@pytest.mark.parametrize("late", ["", "LoadGen was late"])
def test_a_late_loadgen_is_told_before_the_use_of_the_cores(late: str) -> None:
    busy = SimpleNamespace(problem="others used 30 % of the cores", others=0.3, steal=0.0)
    assert run_quality(summary(late), busy).problem == (late or busy.problem)  # type: ignore[arg-type]


def test_the_columns_hold_every_number_of_a_run() -> None:
    columns = run_quality(summary(), USE).columns()
    assert columns == {
        "problem": "",
        "wrong_answers": 0,
        "issue_delay_p50_s": 0.001,
        "issue_delay_p99_s": 0.002,
        "delivery_p99_s": 0.003,
        "others_share": 0.02,
        "steal_share": 0.01,
        "loadgen_runs": Promptness.NORMAL.value,
        "client": LOADGEN,
    }


def test_a_simulated_run_has_the_same_columns() -> None:
    assert RunQuality().columns().keys() == run_quality(summary(), USE).columns().keys()
