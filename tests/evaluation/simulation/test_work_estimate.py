from pathlib import Path

import pytest

from tests.support.table_builders import make_config, make_tables
from veltair.compiler.select.store import FEW
from veltair.config import load
from veltair.evaluation.__main__ import main
from veltair.evaluation.simulation.work_estimate import (
    CALLED_LAYER_ENDS_PER_S,
    CELL_S,
    LAYER_ENDS_PER_S,
    SLOT_START_S,
    START_S,
    Work,
    estimate,
    hours,
)

CONFIGS = Path(__file__).parents[3] / "workflow" / "config"
MEASURED = {"enabled": True, "workloads": ["mix"], "shares": [0.2, 0.5], "seconds": 2, "queries": 45}


# In place of the shipped ones, which tell other models' times; what they lack counts as `large`.
TABLES = make_tables()


def by_kind(work: list[Work]) -> dict[str, Work]:
    return {part.kind: part for part in work}


def changed(**changes) -> dict[str, Work]:
    return by_kind(estimate(make_config(**changes), TABLES))


def test_the_paper_s_grids_have_jobs_and_hours_of_every_kind() -> None:
    work = estimate(load([CONFIGS / "paper.yaml"]), TABLES)
    assert [part.kind for part in work] == [
        "search",
        "build",
        "compare with ONNX Runtime",
        "profile",
        "simulate: QPS at 95 % QoS",
        "simulate: shared loads",
        "measure on this machine",
    ]
    assert all(part.jobs > 0 and part.seconds > 0 for part in work)


def test_jobs_of_the_paper_s_grids_are_those_that_snakemake_lists() -> None:
    # 7 policies x 4 workloads x 2 machines; measured on one of them.
    work = by_kind(estimate(load([CONFIGS / "paper.yaml"]), TABLES))
    assert work["simulate: QPS at 95 % QoS"].jobs == work["simulate: shared loads"].jobs == 56
    assert work["measure on this machine"].jobs == 4
    assert (work["build"].jobs, work["profile"].jobs) == (7, 1)


def test_the_smoke_run_is_simulation_only() -> None:
    work = estimate(load([CONFIGS / "smoke.yaml"]), TABLES)
    assert [part.kind for part in work] == ["simulate: QPS at 95 % QoS", "simulate: shared loads"]


def test_the_paper_s_grids_take_longer_than_the_default() -> None:
    default, paper = (
        hours(estimate(load([CONFIGS / name]), TABLES), cores=2) for name in ("config.yaml", "paper.yaml")
    )
    assert paper > 5 * default > 0


def test_measuring_takes_the_minutes_of_the_configuration_but_three_rounds_at_least() -> None:
    few, many = (
        changed(profile={"costs": "measured"}, measured=MEASURED | {"minutes": minutes})
        for minutes in (0.001, 60)
    )
    kind = "measure on this machine"
    assert many[kind].seconds == pytest.approx(60 * 60 + START_S)
    # Of 2 policies, slots of 45 queries at 0.2 and 0.5 of the sequential rate, or of 2 s.
    alone_s = (0.00075 + 0.003) / 2
    slots_s = max(2.0, 45 * alone_s / 0.2) + max(2.0, 45 * alone_s / 0.5)
    assert few[kind].seconds == pytest.approx(START_S + 3 * 2 * (slots_s + 2 * SLOT_START_S))
    assert few[kind].exclusive


def test_searching_time_grows_with_the_trials_and_is_none_with_shipped_candidates() -> None:
    measured = {"profile": {"costs": "measured"}}
    few, many = (changed(search={"reuse": False, "trials": trials}, **measured) for trials in (10, 30))
    assert many["search"].seconds == pytest.approx(3 * few["search"].seconds)
    assert "search" not in changed(**measured)


def test_profiling_time_grows_with_repeats_levels_and_core_counts() -> None:
    def seconds(**profile) -> float:
        start = START_S
        base = {"costs": "measured", "cores": [1], "levels": [0.0], "repeats": 1}
        return changed(profile=base | profile)["profile"].seconds - start

    assert seconds(repeats=10) == pytest.approx(10 * seconds())
    assert seconds(levels=[0.0, 1.0]) == pytest.approx(2 * seconds())
    assert seconds(cores=[1, 2, 4]) == pytest.approx(3 * seconds())


def test_simulating_time_grows_with_queries_and_seeds() -> None:
    base = {"machines": ["host"], "workloads": ["mix"], "queries": 10_000, "seeds": [1]}
    kind = "simulate: shared loads"

    def seconds(**simulated) -> float:
        part = changed(simulated=base | simulated)[kind]
        return part.seconds - part.jobs * CELL_S

    assert seconds(queries=30_000) == pytest.approx(3 * seconds())
    assert seconds(seeds=[1, 2]) == pytest.approx(2 * seconds())


def test_exclusive_work_does_not_gain_from_more_cores() -> None:
    work = [Work("alone", 1, 3600.0, exclusive=True), Work("shared", 8, 7200.0, exclusive=False)]
    assert hours(work, cores=1) == pytest.approx(3.0)
    assert hours(work, cores=4) == pytest.approx(1.5)


def test_a_machine_that_is_not_described_is_an_error() -> None:
    with pytest.raises(LookupError, match="no machine 'abacus'"):
        changed(simulated={"machines": ["abacus"], "workloads": ["mix"]})


def test_the_program_prints_a_row_of_each_kind_and_the_hours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--config", str(CONFIGS / "paper.yaml"), "--cores", "2"]) == 0
    printed = capsys.readouterr().out
    assert "measure on this machine" in printed
    assert "h on the clock" in printed


def test_the_program_ends_with_status_2_and_one_error_for_a_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("measured:\n  seconds: 15ms\n")
    assert main(["estimate", "--config", str(CONFIGS / "config.yaml"), str(tmp_path / "bad.yaml")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "measured.seconds: '15ms' is refused" in captured.err


def test_the_program_ends_with_status_2_for_a_file_that_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["estimate", "--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_the_program_ends_with_status_2_for_a_machine_that_is_not_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("simulated:\n  machines: [abacus]\n")
    assert main(["estimate", "--config", str(CONFIGS / "config.yaml"), str(tmp_path / "bad.yaml")]) == 2
    assert "no machine 'abacus'" in capsys.readouterr().err


def test_its_help_tells_where_things_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    for path in (
        "workflow/config/",
        "results/summary.md",
        "results/README.md",
        "results/metrics/",
        "figures/",
    ):
        assert any(line.startswith(f"  {path}") for line in printed.splitlines()), path


STUDY = {
    "enabled": True,
    "policies": ["Planaria"],
    "granularity": {"policies": ["FcfsMin", "Planaria"]},
    "scale": ["threadripper-3990x-8", "threadripper-3990x"],
}


def test_a_study_has_the_jobs_that_snakemake_lists() -> None:
    start = {"title": "cost of a start", "key": "simulated.start_cost_us", "values": [20, 40, 55]}
    work = changed(study=STUDY, sensitivity={"start": start})
    jobs = {kind: part.jobs for kind, part in work.items() if kind.startswith("study: ")}
    assert jobs == {
        "study: granularity": 2,
        "study: sensitivity": 3,
        "study: scale": 2,
        "study: conflicts, layers, tables, figures": 4,
    }


def test_the_noisy_neighbour_and_the_one_rule_are_jobs_of_a_policy_each() -> None:
    more = {
        "noisy_neighbour": {"policies": ["Planaria"], "aggressor": "small", "factors": [1, 9]},
        "equal_drops": {"policies": ["FcfsMin", "Planaria"]},
    }
    work = changed(study=STUDY | more)
    assert work["study: noisy neighbour"].jobs == 1
    assert work["study: one rule for late queries"].jobs == 2
    # Two runs of both tenants, and one of them ten times over: as long as seven runs.
    (one,) = (
        changed(study=STUDY | {"noisy_neighbour": {**more["noisy_neighbour"], "factors": factors}})
        for factors in ([1],)
    )
    seconds = [part["study: noisy neighbour"].seconds - CELL_S for part in (work, one)]
    assert seconds[0] == pytest.approx(seconds[1] * (2 + 10 / 2) / (1 + 1 / 2))


def test_another_workload_of_an_assumption_is_a_job_of_its_own() -> None:
    start = {"title": "cost of a start", "key": "simulated.start_cost_us", "values": [20, 40, 55]}
    config = {"study": STUDY, "workloads": {"mix": {"small": 1, "large": 1}, "light": {"small": 1}}}
    one, two = (
        changed(**config, sensitivity={"start": {**start, "workloads": names}})["study: sensitivity"].jobs
        for names in (["mix"], ["mix", "light"])
    )
    assert (one, two) == (3, 6)


def test_the_full_grid_of_the_study_takes_longer_than_the_reduced_one() -> None:
    files = [CONFIGS / "many_core.yaml", CONFIGS / "paper_sim.yaml"]
    reduced, full = (hours(estimate(load(files[:count]), TABLES), cores=2) for count in (1, 2))
    assert full > 1.5 * reduced > 0


def test_a_model_without_candidates_is_searched_if_that_is_asked_for_and_no_other() -> None:
    mine = {"builder": "models.resnet50:resnet50", "qos_ms": 20}
    models = {"models": {"small": mine, "mine": mine}, "workloads": {"mix": {"small": 1, "mine": 1}}}
    measured = {"profile": {"costs": "measured"}, **models}
    assert "search" not in changed(search={"missing": "error"}, **measured)
    both = changed(search={"reuse": False, "trials": 60}, **measured)["search"]
    own, few, many = (
        changed(search=search, **measured)["search"]
        for search in (
            {"missing": "own", "trials": 60},
            {"missing": "search", "trials": 2 * FEW},
            {"missing": "search", "trials": 60},
        )
    )
    assert 0 < many.seconds < both.seconds
    assert own.seconds == few.seconds == pytest.approx(many.seconds * 2 * FEW / 60)


def simulated_s(path: str, **options: object) -> float:
    """Return the seconds of the runs of one policy, without those in which its jobs come up."""
    part = changed(policies={"P": {"path": path, "options": options}})["simulate: shared loads"]
    return part.seconds - part.jobs * CELL_S


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("baselines.prema:Prema", {}),
        ("baselines.planaria:Planaria", {"reshare_s": 0.001}),  # under this option C cannot decide
        ("docs.example_policy:Greedy", {}),
    ],
)
def test_a_policy_that_is_called_in_python_takes_so_much_longer(
    path: str, options: dict[str, object]
) -> None:
    in_c = simulated_s("baselines.planaria:Planaria")
    assert simulated_s(path, **options) == pytest.approx(in_c * LAYER_ENDS_PER_S / CALLED_LAYER_ENDS_PER_S)


def test_a_policy_that_cannot_be_made_counts_as_one_in_python() -> None:
    assert simulated_s("nowhere:Lost") == simulated_s("baselines.prema:Prema")
