"""The workflow as a user meets it: Snakemake itself, in a folder of its own, from made-up tables."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.api import SnakemakeApi
from snakemake.rules import Rule
from snakemake.settings.types import ConfigSettings, ResourceSettings

from tests.support.snakemake_runs import run_snakemake
from tests.support.table_builders import config_values, write_made_up_tables
from veltair.evaluation.experiment.step import load_step, missing_names

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "workflow" / "config"
SCRIPT = ROOT / "workflow" / "scripts" / "step.py"
# They start kernels on all cores, so nothing else may run beside them.
BENCHMARKS = {
    *("benchmarks_compiler", "benchmarks_engine", "benchmarks_service", "benchmarks_simulator"),
    *("co_runs", "interference", "layer_times", "native_block_costs", "real_model", "tolerance"),
    "validation_trace",
}
MEASURING = {"search", "machine", "oversubscription", "profile", "measure", "remote", *BENCHMARKS}


def snakemake(folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the repository's workflow in a folder, on one core."""
    return run_snakemake(folder, "--snakefile", folder / "Snakefile", "--cores", "1", *arguments)


def listed(done: "subprocess.CompletedProcess[str]") -> dict[str, int]:
    """Return the jobs of a dry run by rule, the default target left out."""
    assert done.returncode == 0, done.stderr
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total", done.stdout + done.stderr, re.MULTILINE | re.DOTALL)
    if table is None:
        return {}
    jobs = (line.split() for line in table.group(1).splitlines())
    return {name: int(count) for name, count in jobs if name != "default"}


def without(*ends: str) -> Callable[[str, list[str]], set[str]]:
    """Return what leaves out the files and folders whose path ends so."""
    return lambda folder, names: {
        name for name in names if f"{folder}/{name}".endswith(tuple(f"/{end}" for end in ends))
    }


def write_config(folder: Path, **changes: Any) -> Path:
    """Write a configuration that simulates two made-up models."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(config_values(**changes)))
    return path


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository without results, whose shipped tables are made up."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Snakefile", "environment.yml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("workflow", "veltair", "baselines", "models", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=without("__pycache__", "data/costs"))
    (folder / "tests" / "golden").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "golden" / "smoke_summary.csv", folder / "tests" / "golden")
    write_made_up_tables(folder / "veltair" / "data" / "costs")
    return folder


def test_the_default_run_has_every_kind_of_job(checkout: Path) -> None:
    # 2 models; 8 policies on 2 machines in simulation, and all of them measured here together.
    assert listed(snakemake(checkout, "-n")) == {
        "machine": 1,
        "model": 2,
        "build": 2,
        "oracle": 2,
        "profile": 1,
        "derive": 1,
        "simulate_capacity": 16,
        "simulate_loads": 16,
        "measure": 1,
        "metrics": 1,
        "figures": 1,
        "version_study": 1,
        "version_figures": 1,
        "summary": 1,
    }


def test_a_validation_records_a_trace_of_each_policy_and_searches_no_rate(checkout: Path) -> None:
    jobs = listed(snakemake(checkout, "-n", "validation"))
    assert (jobs["validation_trace"], jobs["co_runs"], jobs["validation"]) == (8, 1, 1)
    assert not jobs.keys() & {"measure", "simulate_capacity"}


def test_the_smoke_run_only_simulates(checkout: Path, tmp_path: Path) -> None:
    # With the tables that are really shipped: those of the checkout lack its models.
    folder = tmp_path / "checkout"
    shutil.copytree(checkout, folder, ignore=without(".snakemake", "data/costs", "data/search"))
    shutil.copytree(ROOT / "veltair" / "data" / "costs", folder / "veltair" / "data" / "costs")
    jobs = listed(snakemake(folder, "-n", "smoke", "--configfile", CONFIGS / "smoke.yaml"))
    assert jobs == {
        "derive": 1,
        "simulate_capacity": 12,
        "simulate_loads": 12,
        "metrics": 1,
        "figures": 1,
        "summary": 1,
        "smoke": 1,
    }


def test_the_paper_s_run_searches_and_measures_four_workloads(checkout: Path) -> None:
    jobs = listed(snakemake(checkout, "-n", "--configfile", CONFIGS / "paper.yaml"))
    assert (jobs["search"], jobs["measure"], jobs["simulate_capacity"]) == (1, 4, 56)


SERVED = {"small": 1, "large": 1}
# Two assumptions with three values, of which the run has two anyway: these share a cell.
STUDY = {
    "workloads": {"mix": SERVED},
    "compared": ["Planaria"],
    "study": {
        "enabled": True,
        "policies": ["Planaria"],
        "scale": ["threadripper-3990x-8"],
        "granularity": {"policies": ["FcfsMin", "Planaria"]},
        "conflicts": {"policies": ["FcfsMin"]},
    },
    "simulated": {"machines": ["threadripper-3990x"], "workloads": ["mix"]},
    "sensitivity": {
        "start": {"title": "cost of a start", "key": "simulated.start_cost_us", "values": [20, "measured"]},
        "placement": {"title": "placement", "key": "simulated.placement", "values": ["spread"]},
    },
}


def test_a_study_has_a_job_for_each_cell_and_simulates_what_is_usual_once(checkout: Path) -> None:
    done = snakemake(checkout, "-n", "--configfile", write_config(checkout, **STUDY))
    jobs = {
        name: count for name, count in listed(done).items() if name not in ("metrics", "figures", "summary")
    }
    assert jobs == {
        "derive": 2,
        "simulate_capacity": 1,
        "simulate_loads": 1,
        "granularity": 2,
        "conflicts": 1,
        "layer_tables": 1,
        "sensitivity": 2,
        "scale": 1,
        "study_tables": 1,
        "paper_figures": 1,
        "claims": 1,
    }


def test_shipped_tables_that_lack_a_model_end_in_a_clear_error_before_any_job(checkout: Path) -> None:
    done = snakemake(checkout, "-n", "--configfile", CONFIGS / "many_core.yaml", CONFIGS / "paper_sim.yaml")
    assert done.returncode != 0
    assert "profile.costs: the shipped cost tables lack bert_large, " in done.stdout + done.stderr


def test_the_figures_of_the_full_grid_are_drawn_from_shipped_tables_alone(checkout: Path) -> None:
    done = snakemake(checkout, "-n", "redraw", "--configfile", write_config(checkout, **STUDY))
    assert listed(done) == {"redraw": 1}


def test_the_workflow_is_lint_free(checkout: Path) -> None:
    done = snakemake(checkout, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rules() -> Iterator[dict[str, Rule]]:
    """The rules of the workflow that run something, by name, as Snakemake reads them."""
    configs = ConfigSettings(configfiles=[CONFIGS / "config.yaml"])
    with SnakemakeApi() as api, pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        resources = ResourceSettings(cores=1)
        workflow = api.workflow(resources, config_settings=configs, snakefile=ROOT / "workflow/Snakefile")
        yield {rule.name: rule for rule in workflow._workflow.rules if not rule.norun}


def test_every_rule_says_its_log_its_environment_and_what_it_does(rules: dict[str, Rule]) -> None:
    assert len(rules) > 30
    assert [rule.name for rule in rules.values() if not (rule.log and rule.conda_env and rule.message)] == []


def test_rules_that_measure_take_all_threads_and_the_lock_and_no_other_rule_does(
    rules: dict[str, Rule],
) -> None:
    alone = {name for name, rule in rules.items() if "cpu_lock" in rule.resources}
    threads = {name for name, rule in rules.items() if rule.resources["_cores"] != 1}
    assert alone == threads == MEASURING


def test_one_script_runs_every_step_watched_and_logged(rules: dict[str, Rule]) -> None:
    assert [path.name for path in SCRIPT.parent.glob("*.py")] == [SCRIPT.name]
    assert {Path(rule.script).name for rule in rules.values()} == {SCRIPT.name}
    text = SCRIPT.read_text()
    assert text.index("with logged(snakemake.log[0])") < text.index("supervise(") < text.index("run_step(")


def test_every_rule_names_what_its_step_needs_and_the_code_and_keys_that_it_depends_on(
    rules: dict[str, Rule],
) -> None:
    for rule in rules.values():
        assert {"step", "config", "code"} <= set(rule.params.keys()), rule.name
        known = {"notes", "input", "output", *rule.wildcard_names}
        known |= {*rule.input.keys(), *rule.output.keys(), *rule.params.keys()}
        function = load_step(rule.params.step)
        missing = missing_names(function, known)
        assert missing == [], (rule.name, missing)


BUILDER = {"builder": "models.resnet50:resnet50"}
# What the keys themselves allow, then what is here: two lists of mistakes, each printed whole.
WRONG_VALUES = {
    "simulatedd": {},
    "models": {"small": {**BUILDER, "qos_ms": "15ms"}, "large": {**BUILDER, "qos_ms": 0}},
}
VALUE_ERRORS = (
    "simulatedd: unknown key; did you mean `simulated`?",
    "models.small.qos_ms: '15ms' is refused: it is not a number",
    "models.large.qos_ms: 0 is refused",
)
WRONG_NAMES = {"simulated": {"machines": ["host"], "workloads": ["heavy"]}}
NAME_ERRORS = ("simulated.workloads: 'heavy' is not in `workloads` (mix)",)
WRONG_SURROUNDINGS = {
    "models": {"small": {"onnx": "no.onnx", "qos_ms": 20}, "large": {**BUILDER, "qos_ms": 40}},
    "profile": {"costs": "measured", "cores": [1, 100_000]},
    "policies": {"Lost": {"path": "not_here:Mine"}, "Idle": {"path": "veltair.serving.loop.query:Query"}},
}
SURROUNDING_ERRORS = (
    "models.small.onnx: there is no file 'no.onnx'",
    "profile.cores: 100000 cores, but this machine gives",
    "policies.Lost: policy not_here:Mine: importing not_here failed",
    "policies.Idle: policy veltair.serving.loop.query:Query: Query has no method allocate",
)


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (WRONG_VALUES, VALUE_ERRORS),
        (WRONG_NAMES, NAME_ERRORS),
        (WRONG_SURROUNDINGS, SURROUNDING_ERRORS),
    ],
    ids=["values", "names", "surroundings"],
)
def test_a_wrong_configuration_ends_in_one_list_of_mistakes_before_any_job(
    checkout: Path, changes: dict[str, Any], messages: tuple[str, ...]
) -> None:
    done = snakemake(checkout, "--configfile", write_config(checkout, **changes))
    first, *lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode != 0
    assert first.startswith("error: ")
    # Each mistake has a line of its own, and nothing else is printed.
    assert len(lines) == len(messages), done.stderr
    for message in messages:
        assert any(line.startswith(f"  {message}") for line in lines), (message, lines)
    assert not (checkout / "results").exists()


@pytest.mark.parametrize("name", ["a checkout", "it's", "run(1)"])
def test_a_folder_whose_name_means_something_to_a_shell_is_refused(
    checkout: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    shutil.copytree(checkout / "workflow", folder / "workflow")
    shutil.copy(checkout / "Snakefile", folder)
    done = snakemake(folder, "-n")
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") and "in its name, at which jobs break; move it" in done.stderr


def test_packages_of_another_python_are_told_by_the_name_of_pythonpath(
    checkout: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".snakemake"))
    (folder / "pandas.py").write_text("raise ImportError('built for another Python')\n")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--snakefile", "Snakefile"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"(built for another Python); PYTHONPATH is {folder}, from which packages" in done.stderr


def test_values_on_the_command_line_are_refused_and_not_ignored(checkout: Path) -> None:
    done = snakemake(checkout, "-n", "--config", "measured={enabled: false}")
    assert done.returncode != 0
    assert done.stderr.startswith("error: --config is not taken; write its keys into a file")


def test_a_second_file_goes_over_the_first(checkout: Path) -> None:
    (checkout / "over.yaml").write_text("measured:\n  enabled: false\n")
    files = ("--configfile", CONFIGS / "config.yaml", checkout / "over.yaml")
    jobs = listed(snakemake(checkout, "-n", *files))
    assert "measure" not in jobs
    assert jobs["simulate_capacity"] == 16


FAULTY = """
from docs.example_policy import Greedy as Good

class Greedy(Good):
    def allocate(self, snapshot):
        raise LookupError("this policy has lost its way")
"""


@pytest.fixture(scope="module")
def interrupted(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A checkout, a configuration, and what its run printed, which one of the two policies ended."""
    folder = tmp_path_factory.mktemp("run") / "checkout"
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".snakemake"))
    (folder / "mine.py").write_text(FAULTY)
    policies = {"FcfsMin": {"path": "baselines.fcfs_min:FcfsMin"}, "Mine": {"path": "mine:Greedy"}}
    config = write_config(folder, policies=policies)
    done = snakemake(folder, "--configfile", config, "--keep-going", *capacity_files("FcfsMin", "Mine"))
    return folder, config, done


def capacity_files(*policies: str) -> list[str]:
    return [f"results/simulated/host/mix/{policy}/capacity.csv" for policy in policies]


def test_a_policy_that_fails_says_why_and_leaves_its_trace_in_the_log(interrupted: Any) -> None:
    folder, _, done = interrupted
    log = "results/logs/simulate_capacity/host-mix-Mine.log"
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"error: this policy has lost its way\n(the trace is in {log})" in printed
    assert "Traceback" not in printed.split("error: this policy")[0]
    assert "in allocate" in (folder / log).read_text()


def test_after_an_interruption_finished_steps_are_not_repeated(interrupted: Any) -> None:
    folder, config, _ = interrupted
    done = snakemake(folder, "-n", "results/metrics/rates.csv", "--configfile", config)
    assert listed(done) == {"simulate_capacity": 1, "simulate_loads": 2, "metrics": 1}
    assert "Mine" in done.stdout + done.stderr


@pytest.mark.long
def test_a_policy_of_one_s_own_runs_to_the_summary_and_only_what_is_missing_is_made_anew(
    interrupted: Any,
) -> None:
    folder, config, _ = interrupted
    (folder / "mine.py").write_text("from docs.example_policy import Greedy\n")
    done = snakemake(folder, "--configfile", config)
    assert done.returncode == 0, done.stderr
    assert "| Mine" in (folder / "results" / "summary.md").read_text()
    assert json.loads((folder / "results" / "metrics" / "rates.csv.provenance.json").read_text())["commit"]
    assert listed(snakemake(folder, "-n", "--configfile", config)) == {}
    (folder / "results" / "summary.md").unlink()
    assert listed(snakemake(folder, "-n", "--configfile", config)) == {"summary": 1}


def test_who_names_a_server_measures_it_and_nothing_of_ours(checkout: Path) -> None:
    overlay = [CONFIGS / "config.yaml", CONFIGS / "remote.yaml"]
    assert listed(snakemake(checkout, "-n", "--configfile", *overlay)) == {"model": 2, "remote": 1}
