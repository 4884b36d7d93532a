import sys
from pathlib import Path
from typing import Any

import pytest

from baselines.edf_min import EdfMin
from baselines.fcfs_min import FcfsMin
from baselines.planaria import Planaria
from tests.support.builders import (
    linear_context,
    pending,
    random_context,
    random_queries,
    run_to_end,
    snapshot,
)
from tests.support.serving.policy_cases import POLICIES
from veltair.serving.loop.policy import Context
from veltair.serving.policies.admission import ProtectShares
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions
from veltair.serving.policies.fair import FairTurns
from veltair.serving.policies.in_time import AdmitInTime
from veltair.serving.policies.native_spec import spec_of
from veltair.serving.policies.presets import (
    PRESETS,
    check_policy,
    make_policy,
    policy_source,
    preset_options,
    shared_options,
    simulated_only,
)

OWN_POLICY = """
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation


class OneAtATime:
    def __init__(self, context, *, cores: int):
        self.models, self.cores = context.models, cores

    def allocate(self, snapshot):
        if snapshot.running or not snapshot.pending:
            return []
        query = snapshot.pending[0].query
        layers = len(self.models[query.model].layers)
        return [Allocation(query.id, LayerBlock(query.model, 0, layers), (0,) * layers, self.cores)]


class Mute:
    def __init__(self, context):
        pass


class Generous:
    def __init__(self, context, **options):
        self.options = options

    def allocate(self, snapshot):
        return []


class Contextless:
    def allocate(self, snapshot):
        return []
"""


@pytest.fixture
def own_policy(tmp_path, monkeypatch, request):
    """Return the name of a module file in the current directory, a new one for each test."""
    name = f"own_policy_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(OWN_POLICY)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_complete_under_every_preset(name, preset):
    path, options = POLICIES[name]
    check_policy(path, options, preset)
    context = random_context(1)
    policy = make_policy(path, context, preset, options)
    assert len(run_to_end(policy, context, random_queries(context, 20, seed=1))) == 20


def test_the_preset_of_the_paper_is_what_the_paper_does():
    assert PRESETS["paper"] == {
        "alpha": 1.0,
        "budgets": "static",
        "budget_basis": "macs",
        "threshold": "active_queries",
        "conflict": "shrink",
        "coalesce_layers": 1,
        "growth": False,
        "versions": "fastest",
        "order": "fcfs",
        "drop_late": "never",
        "layers": 20,
        "admission": "all",
    }


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_given_only_what_is_within_its_tenants_parts(name):
    path, options = POLICIES[name]
    context = random_context(1)
    policy = make_policy(path, context, "paper", {**options, "admission": "protect_shares"})
    assert isinstance(policy, ProtectShares)
    assert len(run_to_end(policy, context, random_queries(context, 60, seed=1))) == 60


@pytest.mark.parametrize(
    ("admission", "kind"),
    [("fair_turns", FairTurns), ("in_time", AdmitInTime), ("fair_in_time", AdmitInTime)],
)
@pytest.mark.parametrize("name", POLICIES)
def test_tenants_can_take_turns_and_the_late_be_turned_away_around_every_policy(name, admission, kind):
    path, options = POLICIES[name]
    context = random_context(1)
    policy = make_policy(path, context, "paper", {**options, "admission": admission})
    assert isinstance(policy, kind)
    assert len(run_to_end(policy, context, random_queries(context, 60, seed=1))) == 60


def test_an_unknown_admission_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match="admission is 'some'; Input should be 'all', 'protect_shares'"):
        check_policy("baselines.planaria:Planaria", {"admission": "some"})


def test_the_options_that_change_any_policys_results_are_told_apart_from_its_own():
    assert shared_options("baselines.planaria:Planaria", "paper", {"reshare_s": 0.1, "order": "edf"}) == {
        "order": "edf",
        "conflict": "shrink",
        "drop_late": "never",
        "admission": "all",
    }
    found = shared_options("baselines.preemptive_edf:PreemptiveEdf", "paper", {})
    assert found == {"drop_late": "when_doomed", "admission": "all"}


def test_the_tuned_preset_differs_from_the_papers_in_what_was_shown_to_help():
    paper, tuned = PRESETS["paper"], PRESETS["tuned"]
    assert tuned.keys() == paper.keys()
    assert {name: value for name, value in tuned.items() if value != paper[name]} == {
        "alpha": 0.8,
        "budgets": "slack_feedback",
        "conflict": "shrink_one_layer",
        "coalesce_layers": 8,
        "growth": True,
        "versions": "priced",
    }


@pytest.mark.parametrize(("preset", "conflict"), [("paper", "shrink"), ("tuned", "shrink_one_layer")])
def test_whole_model_fcfs_waits_where_others_shrink(preset, conflict):
    for path in ("baselines.fcfs_min:FcfsMin", "baselines.edf_min:EdfMin"):
        assert preset_options(path, preset)["conflict"] == "wait"
    assert preset_options("baselines.planaria:Planaria", preset)["conflict"] == conflict


@pytest.mark.parametrize("preset", PRESETS)
def test_edf_alone_follows_deadlines_and_drops_the_doomed(preset):
    options = preset_options("baselines.edf_min:EdfMin", preset)
    assert (options["order"], options["drop_late"]) == ("edf", "when_doomed")
    options = preset_options("baselines.fcfs_min:FcfsMin", preset)
    assert (options["order"], options["drop_late"]) == ("fcfs", "never")


class Moved(FcfsMin):
    """A subclass in another file, as a policy that somebody derives or moves."""


class MovedEdf(EdfMin):
    """The same of a policy with more exceptions."""


@pytest.mark.parametrize("preset", PRESETS)
def test_a_subclass_or_a_moved_policy_keeps_what_differs_from_the_presets(preset):
    for original, moved in (
        ("baselines.fcfs_min:FcfsMin", "Moved"),
        ("baselines.edf_min:EdfMin", "MovedEdf"),
    ):
        assert preset_options(f"{__name__}:{moved}", preset) == preset_options(original, preset)


def test_a_preset_by_its_old_name_says_the_new_one():
    with pytest.raises(ValueError, match="preset 'shipped' is called 'tuned' now; write that"):
        check_policy("baselines.planaria:Planaria", {}, "shipped")


def test_a_users_policy_may_take_options_as_a_dataclass_too():
    options = {"patience": 3, "order": "edf"}
    policy = make_policy(f"{__name__}:Grouped", linear_context([0.03]), "paper", options)
    assert (policy.options, policy.patience) == (QueueOptions(Order.EDF, Conflict.SHRINK, DropLate.NEVER), 3)
    with pytest.raises(ValueError, match="needs option patience"):
        check_policy(f"{__name__}:Grouped", {})


class Grouped:
    def __init__(self, context: Context, options: QueueOptions, *, patience: int) -> None:
        self.options, self.patience = options, patience

    def allocate(self, snapshot: Any) -> tuple[()]:
        return ()


def test_the_users_options_go_over_the_presets():
    # 30 core-ms in 10 ms need 3 cores, in half of that 6.
    context = linear_context([0.030])
    waiting = [pending(1, context.models["net"])]
    policies = [
        make_policy("baselines.fcfs_min:FcfsMin", context, "paper", given) for given in ({}, {"alpha": 0.5})
    ]
    assert [policy.allocate(snapshot(8, waiting))[0].cores for policy in policies] == [3, 6]


def test_a_policy_gets_its_options_as_the_types_it_states():
    policy = make_policy("baselines.planaria:Planaria", linear_context([0.03]), "paper", {"order": "edf"})
    assert isinstance(policy, Planaria)
    spec = spec_of(policy)
    assert spec is not None
    assert spec.options.order is Order.EDF


def test_a_policy_may_be_a_file_in_the_current_directory(own_policy):
    context = random_context(1)
    policy = make_policy(f"{own_policy}:OneAtATime", context, "paper", {"cores": 4})
    assert len(run_to_end(policy, context, random_queries(context, 20, seed=1))) == 20


def test_a_policy_that_takes_any_option_gets_the_users_but_no_presets(own_policy):
    policy = make_policy(f"{own_policy}:Generous", random_context(1), "paper", {"anything": 1})
    assert policy.options == {"anything": 1}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("baselines.planaria", "'baselines.planaria' is not an import path; write package.module:Class"),
        ("baselines/planaria.py:Planaria", "is not an import path"),
        ("baselines.plantaria:Planaria", "importing baselines.plantaria failed with ModuleNotFoundError"),
        ("baselines.planaria:Plantaria", "no class Plantaria; its policies are .*Planaria, PlanariaAware"),
        ("veltair.serving.loop.query:Query", r"Query has no method allocate\(self, snapshot\); add it"),
    ],
)
def test_a_path_that_names_no_policy_says_why(path, message):
    with pytest.raises(ValueError, match=message):
        check_policy(path, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"alhpa": 0.8},
            "LayerWise takes no option alhpa; it takes alpha, budgets, order, conflict, drop_late",
        ),
        ({"layers": 3}, "takes no option layers"),
        ({"alpha": 0}, "option alpha is 0; Input should be greater than 0"),
        ({"alpha": "much"}, "option alpha is 'much'; Input should be a valid number"),
        (
            {"conflict": "shrik"},
            "option conflict is 'shrik'; .*'wait', 'backfill', 'shrink' or 'shrink_one_layer'",
        ),
    ],
)
def test_a_wrong_option_says_what_would_be_right(options, message):
    with pytest.raises(ValueError, match=message):
        check_policy("baselines.layer_wise:LayerWise", options)


def test_wrong_options_fail_as_clearly_when_the_policy_is_made():
    with pytest.raises(ValueError, match="takes no option alhpa"):
        make_policy("baselines.layer_wise:LayerWise", linear_context([1.0]), "paper", {"alhpa": 1})


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(ValueError, match="unknown preset 'papper'; choose paper or tuned"):
        make_policy("baselines.planaria:Planaria", linear_context([1.0]), "papper", {})


def test_an_option_that_neither_preset_nor_user_gives_is_asked_for(own_policy):
    with pytest.raises(ValueError, match="needs option cores, which preset paper does not have"):
        check_policy(f"{own_policy}:OneAtATime", {})


@pytest.mark.parametrize(
    ("name", "message"),
    [("Mute", "has no method allocate"), ("Contextless", "let it take the context first")],
)
def test_a_class_that_cannot_serve_says_why(own_policy, name, message):
    with pytest.raises(ValueError, match=message):
        check_policy(f"{own_policy}:{name}", {})


def test_a_file_that_does_not_parse_is_named_with_its_error(tmp_path, monkeypatch):
    (tmp_path / "broken_policy_file.py").write_text("class Broken(\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="importing broken_policy_file failed with SyntaxError"):
        check_policy("broken_policy_file:Broken", {})


def test_the_current_directory_stays_off_the_path_afterwards(own_policy, tmp_path):
    check_policy(f"{own_policy}:Generous", {})
    with pytest.raises(ValueError, match="failed with ModuleNotFoundError"):
        check_policy("no_such_policy_file:X", {})
    assert str(tmp_path) not in sys.path


def test_the_source_of_a_policy_is_that_of_its_module() -> None:
    source = policy_source("baselines.planaria:Planaria")
    assert source == Path("baselines/planaria.py").read_text(encoding="utf-8")


def test_a_policy_says_why_it_cannot_be_measured() -> None:
    assert simulated_only("baselines.oversubscribed:Oversubscribed").startswith(
        "blocks of the engine have cores"
    )
    assert simulated_only("baselines.planaria:Planaria") == ""
