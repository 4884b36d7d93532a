import numpy as np
import pytest

from tests.support.builders import make_context, make_machine, make_model, pending, snapshot
from veltair.serving.loop.policy import Allocation, Context
from veltair.serving.policies.presets import check_policy, make_policy

PATHS = ("baselines.fixed_version:FixedVersionBlocks", "baselines.fixed_version:FixedVersionElastic")


def two_and_one_versions() -> Context:
    """Return a layer with two versions and one with one, on 1 and 2 cores; pressed, version 0 is slow."""
    seconds = np.full((2, 2, 2, 2), np.nan)
    seconds[0, 0] = [[0.004, 0.020], [0.002, 0.010]]
    seconds[0, 1] = [[0.006, 0.006], [0.003, 0.003]]
    seconds[1, 0] = [[0.004, 0.004], [0.002, 0.002]]
    return make_context(
        {"net": seconds},
        [make_model(macs=(1, 1), qos_s=0.020)],
        cores=(1, 2),
        levels=(0.0, 1.0),
        machine=make_machine(2),
    )


def first_start(path: str, version: int, pressure: float) -> Allocation:
    context = two_and_one_versions()
    policy = make_policy(path, context, "paper", {"version": version, "conflict": "shrink"})
    answer, *_ = policy.allocate(snapshot(2, [pending(1, context.models["net"])], pressure=pressure))
    assert isinstance(answer, Allocation)
    return answer


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pressure", [0.0, 1.0])
@pytest.mark.parametrize("version", [0, 1, 4])
def test_layers_run_in_that_version_or_their_last_at_every_pressure(path, pressure, version):
    start = first_start(path, version, pressure)
    assert start.versions == (min(version, 1), 0)[: len(start.block)]


def test_the_need_follows_the_pressure_as_that_version_does():
    # Budget 10 ms for layer 0: version 0 takes 4 ms on 1 core, pressed 10 ms on 2; version 1 always 6 on 1.
    needs = [first_start(PATHS[0], version, pressure).cores for version in (0, 1) for pressure in (0.0, 1.0)]
    assert needs == [1, 2, 1, 1]


@pytest.mark.parametrize("path", PATHS)
def test_the_version_must_be_named(path):
    with pytest.raises(ValueError, match="needs option version, which preset paper does not have"):
        check_policy(path, {})
    with pytest.raises(ValueError, match="option version is -1; Input should be greater than or equal to 0"):
        check_policy(path, {"version": -1})
