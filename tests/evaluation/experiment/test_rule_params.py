import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.table_builders import make_config
from veltair.evaluation.experiment.rule_params import RuleParams

SIMULATE = "evaluation.simulation.steps:simulate_capacity"
CELL = SimpleNamespace(policy="FcfsMin")


def params(folder: Path, **changes: Any) -> dict[str, Any]:
    made = RuleParams(make_config(**changes), folder).of(
        SIMULATE,
        lambda cell: [("policies", cell.policy), ("simulated", "queries")],
        policies=lambda cell: [cell.policy],
    )
    return {name: value(CELL) if callable(value) else value for name, value in made.items()}


def test_a_rule_passes_its_step_the_keys_that_it_reads_and_a_digest_of_its_code(tmp_path: Path) -> None:
    found = params(tmp_path)
    assert found["step"] == f"veltair.{SIMULATE}"
    assert found["config"]["simulated/queries"] == 100
    assert list(found["config"]) == ["policies/FcfsMin", "simulated/queries"]
    assert len(found["code"]["step"]) == 64
    assert list(found["code"]["named"]) == ["FcfsMin"]


def test_a_policy_of_another_file_has_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for number in range(2):
        (tmp_path / "base.py").write_text(f"class Base:\n    number = {number}\n")
        (tmp_path / "mine.py").write_text("from base import Base\n\n\nclass Mine(Base):\n    pass\n")
        found.append(params(tmp_path, policies={"FcfsMin": {"path": "mine:Mine"}})["code"])
    assert found[0]["step"] == found[1]["step"]
    assert found[0]["named"] != found[1]["named"]


def test_a_policy_that_is_installed_elsewhere_counts_by_its_own_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "package_of_others.py").write_text("class P:\n    def allocate(self, snapshot): ...\n")
    monkeypatch.syspath_prepend(str(installed))
    found = params(tmp_path, policies={"FcfsMin": {"path": "package_of_others:P"}})
    assert len(found["code"]["named"]["FcfsMin"]) == 64
    del sys.modules["package_of_others"]
