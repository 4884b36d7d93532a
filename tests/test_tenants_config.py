"""Tenants in the configuration, and recorded traces: what is refused, and by which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.table_builders import config_values
from veltair.config import Config, ConfigError, check_environment, parse
from veltair.config.part import parse_part, part_of
from veltair.config.section import UndeclaredKeyError
from veltair.config.trace_file import RecordedTrace, TraceError, read_trace

SHOP = {"model": "small", "share": 2}
BATCH = {"model": "small", "share": 1, "arrivals": "gamma", "cv": 4, "qos_ms": 80}


def values(**tenants: Any) -> dict[str, Any]:
    return config_values(tenants={"shared": tenants or {"shop": SHOP, "batch": BATCH}})


def refusal(**tenants: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(values(**tenants))
    return str(caught.value)


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    made = values()
    change(made)
    with pytest.raises(ConfigError) as caught:
        parse(made)
    return str(caught.value)


def test_a_workload_of_tenants_can_be_served_like_any_other() -> None:
    config = parse(values() | {"simulated": {"machines": ["host"], "workloads": ["mix", "shared"]}})
    assert list(config.tenants_of("shared")) == ["shop", "batch"]
    assert config.models_of("shared") == {"small": 3.0}
    assert config.tenants_of("mix") == {} and config.models_of("mix") == {"small": 1, "large": 1}


def test_without_tenants_nothing_is_another() -> None:
    assert parse(config_values()).tenants == {}


@pytest.mark.parametrize(
    ("tenant", "said"),
    [
        ({"model": "small", "share": -1}, "shared.shop.share: -1 is refused: it should be greater than 0"),
        ({"model": "vgg", "share": 1}, "tenants.shared.shop.model: 'vgg' is not in `models` (small, large)"),
        ({"model": "small"}, "tenants.shared.shop: give `share` or `rate`, exactly one of them"),
        ({**SHOP, "rate": 5}, "tenants.shared.shop: give `share` or `rate`, exactly one of them"),
        ({**SHOP, "cv": 2}, "shop: arrivals is poisson and cv is 2.0; give `cv` with `arrivals: gamma`"),
        ({**SHOP, "arrivals": "trace"}, "arrivals is trace and trace is None; give `trace` with"),
        ({**SHOP, "weight": 0}, "tenants.shared.shop.weight: 0 is refused"),
        ({**SHOP, "wieght": 1}, "tenants.shared.shop.wieght: unknown key; did you mean `weight`?"),
    ],
)  # fmt: skip
def test_a_tenant_that_cannot_be_is_refused_by_key_and_value(tenant: dict[str, Any], said: str) -> None:
    assert said in refusal(shop=tenant)


def test_rates_and_shares_are_not_mixed() -> None:
    said = refusal(shop=SHOP, batch={"model": "large", "rate": 20})
    assert "tenants.shared: batch have a rate, shop a share; give all a rate, or all a share" in said


def test_a_workload_has_one_meaning() -> None:
    said = changed(lambda made: made["tenants"].update(mix={"shop": SHOP}))
    assert "tenants.mix: `workloads.mix` is there too; give one of them another name" in said


def test_a_tenant_is_not_called_as_the_model_that_another_asks_for() -> None:
    assert "tenants.shared.large: is called as a model, but asks for small" in refusal(large=SHOP)


def test_an_unknown_tenant_is_refused_where_one_is_named() -> None:
    study = {
        "enabled": True,
        "machine": "host",
        "noisy_neighbour": {"workload": "shared", "aggressor": "nobody", "policies": ["Planaria"]},
    }
    said = changed(lambda made: made.update(study=study))
    assert "study.noisy_neighbour.aggressor: 'nobody' is not in `tenants of shared` (shop, batch)" in said


MEASURED = {"enabled": True, "workloads": ["shared"]}


@pytest.mark.parametrize(
    ("tenants", "measured", "said"),
    [
        (
            {"shop": SHOP, "other": {**SHOP, "qos_ms": 80}},
            {},
            "tenants.shared.other.qos_ms: 80.0, and that of shop is None, but measured.workloads lists",
        ),
        (
            {"batch": BATCH},
            {"loadgen_per_model": True},
            "measured.loadgen_per_model: true, but measured.workloads lists shared, whose tenants share a",
        ),
    ],
)
def test_what_the_engine_cannot_be_asked_is_refused_by_its_key(
    tenants: dict[str, Any], measured: dict[str, Any], said: str
) -> None:
    made = values(**tenants) | {"profile": {"costs": "measured"}, "measured": MEASURED | measured}
    with pytest.raises(ConfigError) as caught:
        parse(made)
    assert said in str(caught.value)


@pytest.mark.parametrize("other", [SHOP, {**SHOP, "share": 0.5}, {**SHOP, "arrivals": "gamma", "cv": 4}])
def test_tenants_can_be_measured_whoever_draws_them(other: dict[str, Any]) -> None:
    made = values(shop=SHOP, other=other) | {"profile": {"costs": "measured"}, "measured": MEASURED}
    assert parse(made).measured.workloads == ("shared",)


def test_admission_is_refused_where_the_engine_cannot_tell_tenants_apart() -> None:
    policies = {"Mine": {"path": "baselines.planaria:Planaria", "options": {"admission": "protect_shares"}}}
    made = values(shop=SHOP, other=SHOP) | {
        "policies": policies,
        "profile": {"costs": "measured"},
        "measured": MEASURED,
    }
    with pytest.raises(ConfigError, match=r"policies.Mine.options.admission: protect_shares, but measured"):
        parse(made)


def test_a_part_of_a_configuration_has_the_tenants_that_it_declares_and_no_others() -> None:
    whole = parse(values()).model_dump(mode="json")
    part = parse_part(part_of(whole, [("tenants", "shared")]), "step")
    assert list(part.tenants_of("shared")) == ["shop", "batch"]
    without = parse_part(part_of(whole, [("workloads", "mix")]), "step")
    assert without.models_of("mix") == {"small": 1, "large": 1}
    with pytest.raises(UndeclaredKeyError, match=r"workloads.shared"):
        without.models_of("shared")


def written(folder: Path, text: str) -> Path:
    (folder / "trace.csv").write_text(text)
    return folder / "trace.csv"


def test_a_trace_is_read_from_its_first_arrival(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s\n10\n10.5\n13\n")
    # Two gaps in 3 s: after one more of 1.5 s it can begin anew.
    assert read_trace(path, "small", ["small"]) == RecordedTrace((0.0, 0.5, 3.0), 4.5)


def test_of_a_trace_of_several_models_a_tenant_takes_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s, model\n0, large\n1, small\n2, large\n3, small\n")
    assert read_trace(path, "small", ["small", "large"]) == RecordedTrace((1.0, 3.0), 4.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when\n1\n", "line 1: the columns are when; give arrival_s and, if wanted, model"),
        ("", "line 1: the columns are none"),
        ("arrival_s\n1\nsoon\n", "line 3: arrival_s is 'soon', not a number of seconds"),
        ("arrival_s\n1\n3\n2\n", "line 4: arrival_s is 2, before the line above (3.0); sort the file"),
        ("arrival_s\n-1\n", "line 2: arrival_s is -1; give a finite number of seconds, 0 or more"),
        ("arrival_s\n1\ninf\n", "line 3: arrival_s is inf; give a finite number"),
        ("arrival_s\n1,2\n", "line 2: has 2 values for 1 columns"),
        ("arrival_s,model\n1,vgg\n", "line 2: model 'vgg' is not served (small, large are)"),
        ("arrival_s,model\n1,large\n2,large\n", "holds no query for small"),
        ("arrival_s\n1\n1\n", "all 2 queries arrive at once"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_refused_by_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(written(tmp_path, text), "small", ["small", "large"])
    assert said in str(caught.value) and "trace.csv" in str(caught.value)


def checked(config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        check_environment(config, lambda *_: None)
    return str(caught.value)


def test_a_bad_trace_is_an_error_before_any_run_that_names_key_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s\n2\n1\n")
    traced = {"model": "small", "share": 1, "arrivals": "trace", "trace": str(path)}
    said = checked(parse(values(cam=traced)))
    assert f"tenants.shared.cam.trace: {path}, line 3: arrival_s is 1, before the line above" in said


def test_a_trace_that_is_not_there_is_named_with_its_key() -> None:
    traced = {"model": "small", "share": 1, "arrivals": "trace", "trace": "nowhere.csv"}
    assert "tenants.shared.cam.trace: [Errno 2] No such file or directory: 'nowhere.csv'" in checked(
        parse(values(cam=traced))
    )
