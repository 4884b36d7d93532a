import os

import pytest

from tests.support.table_builders import make_config
from veltair.config import Config, ConfigError, parse
from veltair.evaluation.experiment.partitions import check_partitions

STREAMS = {"path": "baselines.streams:Streams", "options": {"streams": 9}}


def config_of(machine: str = "threadripper-3990x", **policies: object) -> Config:
    simulated = {"machines": [machine], "workloads": ["mix"]}
    return make_config(policies=policies, simulated=simulated)


@pytest.mark.parametrize(
    "policy",
    [
        STREAMS,
        {"path": "baselines.dart:Dart", "options": {"nodes": 9}},
        {"path": "baselines.clockwork:Clockwork", "options": {"executors": 9}},
    ],
)
def test_more_partitions_than_there_are_steps_of_cores_are_one_error_that_names_all(policy: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        check_partitions(config_of(Mine=policy))
    (name, value), *_ = policy["options"].items()
    assert f"policies.Mine: options {{'{name}': {value}}} with 2 models make 9 partitions, but " in str(
        caught.value
    )
    assert "threadripper-3990x has 64 cores, given 8 at a time; ask for at most 8" in str(caught.value)


@pytest.mark.parametrize(
    "path", [f"baselines.{name}" for name in ("static:Static", "parties:Parties", "packrat:Packrat")]
)
def test_a_partition_a_model_does_not_fit_where_there_are_more_models_than_cores(path: str) -> None:
    config = config_of("host", Mine={"path": path})
    names = [f"model{number}" for number in range(len(os.sched_getaffinity(0)) + 1)]
    values = config.model_dump(mode="json")
    values["models"] = dict.fromkeys(names, values["models"]["small"])
    values["workloads"] = {"mix": dict.fromkeys(names, 1)}
    values["profile"]["costs"] = "measured"
    with pytest.raises(ConfigError, match=f"with {len(names)} models make {len(names)} partitions, but host"):
        check_partitions(parse(values))


def test_batches_that_are_not_built_are_one_error_that_names_policy_and_model() -> None:
    mine = {"path": "baselines.packrat:Packrat", "options": {"batches": [1, 4, 16]}}
    config = config_of(Mine=mine)
    small = config.models["small"].model_copy(update={"batches": (1, 4)})
    config = config.model_copy(update={"models": {**config.models, "small": small}})
    with pytest.raises(ConfigError) as caught:
        check_partitions(config)
    said = str(caught.value)
    assert "want batches of 16, but models.small.batches is [1, 4]" in said
    assert "want batches of 4, 16, but models.large.batches is [1]" in said


def test_blocks_that_share_cores_are_refused_where_all_are_pinned() -> None:
    config = config_of(Mine={"path": "baselines.oversubscribed:Oversubscribed"})
    check_partitions(config)
    pinned = config.simulated.model_copy(update={"placement": "pinned"})
    with pytest.raises(ConfigError, match=r"simulated.placement: pinned, but policies.Mine lets blocks"):
        check_partitions(config.model_copy(update={"simulated": pinned}))


def test_what_fits_or_cuts_nothing_is_taken() -> None:
    fitting = {**STREAMS, "options": {"streams": 8}}
    check_partitions(config_of(Mine=fitting, Other={"path": "baselines.planaria:Planaria"}))


def test_policies_that_are_not_compared_need_not_fit() -> None:
    values = {"Mine": STREAMS, "Planaria": {"path": "baselines.planaria:Planaria"}}
    config = config_of(**values).model_copy(update={"compared": ("Planaria",)})
    check_partitions(config)
