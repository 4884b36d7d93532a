"""Tables under other assumptions."""

from dataclasses import replace
from math import inf

import pandas as pd
import pytest

from tests.support.table_builders import make_config, make_tables
from veltair.compiler.footprint.residency import Residency
from veltair.config.study_keys import Simulated
from veltair.evaluation.experiment.scenario import MakePolicy, Scenario, make_scenario, policy_maker
from veltair.evaluation.simulation.assumptions import (
    changes_machine,
    derive_assumed,
    equal_headroom_alpha,
    fewer_versions,
    with_assumed_noise,
    with_fewer_versions,
)
from veltair.evaluation.simulation.steps import simulated_policy_maker
from veltair.machine.costs.derivation import derive
from veltair.machine.costs.folder import Tables
from veltair.machine.topology.described import described, is_described
from veltair.serving.policies.native_spec import spec_of

QOS_S = {"small": 0.02, "large": 0.04}


def tables_with_versions(count: int) -> Tables:
    """Return tables of so many versions a layer, of which number 1 is the fastest alone."""
    tables = make_tables()
    rows = tables.costs.repeats
    rows = rows[rows["version"] == 0]
    parts = [
        rows.assign(version=number, seconds=rows["seconds"] * (1.0 if number == 1 else 1.1))
        for number in range(count)
    ]
    return replace(tables, costs=type(tables.costs)(pd.concat(parts, ignore_index=True), tables.machine.name))


def versions_of(tables: Tables, count: int) -> list[int]:
    rows = fewer_versions(tables.costs, count).repeats
    return sorted(rows.loc[(rows["model"] == "small") & (rows["layer"] == 0), "version"].unique())


@pytest.mark.parametrize(
    ("count", "kept"),
    [(1, [1]), (2, [0, 1]), (3, [0, 1, 4]), (4, [0, 1, 3, 4]), (5, [0, 1, 2, 3, 4]), (8, [0, 1, 2, 3, 4])],
)
def test_the_solo_version_stays_and_then_both_ends(count: int, kept: list[int]) -> None:
    assert versions_of(tables_with_versions(5), count) == kept


def test_no_version_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="0 versions"):
        fewer_versions(make_tables().costs, 0)


def test_without_any_assumption_a_machine_is_derived_as_ever() -> None:
    host, machine = make_tables(), described("threadripper-3990x")
    assert not changes_machine(Simulated())
    assumed, plain = derive_assumed(host, machine, Simulated()), derive(host, machine)
    assert assumed.machine == plain.machine
    assert assumed.costs.repeats.equals(plain.costs.repeats)


@pytest.mark.parametrize(
    "changes",
    [
        *({"core_unit": 4}, {"clock": False}, {"links": False}, {"link_bandwidth": 0.5}),
        *({"steepness": 0.5}, {"residency": False}, {"warm_weights": False}),
    ],
)
def test_each_assumption_about_a_machine_asks_for_new_tables(changes: dict[str, object]) -> None:
    assert changes_machine(Simulated(**changes))


def test_without_a_clock_by_active_cores_one_core_is_no_faster_than_beside_all_others() -> None:
    machine = described("threadripper-3990x")
    assumed = derive_assumed(make_tables(), machine, Simulated(clock=False)).machine
    assert machine.clock(1) > 1
    assert [assumed.clock(cores) for cores in (1, 32, 64)] == [1, 1, 1]


def test_links_are_as_fast_as_is_assumed() -> None:
    machine = described("threadripper-3990x")
    slow = derive_assumed(make_tables(), machine, Simulated(link_bandwidth=0.5)).machine
    assert slow.link_bytes_per_s == 0.5 * machine.link_bytes_per_s
    unlinked = derive_assumed(make_tables(), machine, Simulated(link_bandwidth=0.5, links=False)).machine
    assert unlinked.link_bytes_per_s == inf


def test_noise_is_assumed_of_described_machines_only() -> None:
    host = make_tables(noise=(1.0, 1.0, 1.0, 9.0))
    there = derive(host, described("threadripper-3990x"))
    assert set(with_assumed_noise(host, Simulated()).costs.model("small").noise) == {1.0, 9.0}
    assert set(with_assumed_noise(there, Simulated()).costs.model("small").noise.round(9)) == {1.0}
    assert there.costs.model("small").noise.max() == pytest.approx(9.0)
    assert with_assumed_noise(there, Simulated(noise="none")).costs.model("small").noise.tolist() == [1.0]


def test_fewer_versions_are_fewer_at_either_clock() -> None:
    there = derive(make_tables(), described("threadripper-3990x"))
    one = with_fewer_versions(there, 1)
    assert one.busy_costs is not None
    assert set(one.busy_costs.repeats["version"]) == set(one.costs.repeats["version"]) == {0}


def test_without_residency_each_layer_is_charged_as_if_it_ran_alone() -> None:
    alone, machine = make_tables(), described("threadripper-3990x")
    found = Residency((64_000,) * 10, (0,) * 10, (0,) * 10)
    resident = replace(
        alone,
        tilings={
            model: tuple(tuple(replace(one, residency=found) for one in versions) for versions in layers)
            for model, layers in alone.tilings.items()
        },
    )
    charged = [
        derive_assumed(host, machine, Simulated(residency=on)).costs.repeats["traffic_bytes"].max()
        for host, on in ((resident, True), (resident, False), (alone, True))
    ]
    assert charged == [0, 64_000, 64_000]


def test_with_cold_weights_nothing_is_found_of_older_queries() -> None:
    host, machine = make_tables(), described("threadripper-3990x")
    found = Residency((14_000,) * 10, (50_000,) * 10, (0,) * 10)
    tilings = {
        model: tuple(tuple(replace(one, residency=found) for one in versions) for versions in layers)
        for model, layers in host.tilings.items()
    }
    charged = [
        derive_assumed(replace(host, tilings=tilings), machine, Simulated(warm_weights=warm))
        for warm in (True, False)
    ]
    assert [tables.costs.repeats["traffic_bytes"].max() for tables in charged] == [0, 50_000]


def test_another_core_unit_gives_other_counts() -> None:
    assumed = derive_assumed(make_tables(), described("threadripper-3990x"), Simulated(core_unit=16))
    assert assumed.costs.cores == (16, 32, 48, 64)


def headroom_site(unit: int) -> Scenario:
    tables = make_tables(cores=8)
    tables = replace(tables, machine=replace(tables.machine, core_unit=unit))
    return make_scenario(tables, QOS_S, 0.0, "mix", {"small": 1, "large": 1})


def test_equal_headroom_needs_no_lower_share_at_the_described_unit() -> None:
    assert equal_headroom_alpha(headroom_site(4).context, 4) == 1.0


def test_a_finer_unit_gets_a_lower_share_as_it_hides_less_headroom() -> None:
    assert 0 < equal_headroom_alpha(headroom_site(1).context, 4) < 1


def test_headroom_of_a_unit_that_no_count_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of 64 cores"):
        equal_headroom_alpha(headroom_site(1).context, 64)


def alpha_of(make: MakePolicy, tables: Tables) -> float:
    """Return the budget share of a policy, as made for a machine."""
    context = make_scenario(tables, QOS_S, 1.0, "mix", {"small": 1, "large": 1}).context
    spec = spec_of(make(context))
    assert spec is not None and spec.budgets is not None
    return spec.budgets.alpha


SIMULATED = {"machines": ["host"], "workloads": ["mix"], "core_unit": 1}


def test_an_assumed_core_unit_leaves_policies_on_a_machine_that_is_not_described_as_they_are() -> None:
    config, tables = make_config(simulated=SIMULATED), make_tables()
    assert not is_described(tables.machine.name)
    assert alpha_of(simulated_policy_maker(config, "FcfsMin"), tables) == 1.0


def test_an_assumption_lowers_budgets_of_simulated_policies_and_not_of_measured_ones() -> None:
    config = make_config(simulated=SIMULATED)
    finer = derive_assumed(make_tables(), described("threadripper-3990x"), config.simulated)
    assert 0 < alpha_of(simulated_policy_maker(config, "FcfsMin"), finer) < 1.0
    assert alpha_of(policy_maker(config, "FcfsMin"), finer) == 1.0
