from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from veltair.config import Config, load
from veltair.config.part import Key, parse_part, part_of
from veltair.config.section import UndeclaredKeyError

CONFIGS = Path(__file__).parents[1] / "workflow" / "config"
WHOLE = load([CONFIGS / "config.yaml"])


def part(*keys: Key) -> Config:
    return parse_part(part_of(WHOLE.model_dump(mode="json"), keys), "rule x")


@pytest.mark.parametrize("name", ["config", "smoke", "paper", "many_core"])
def test_all_keys_make_the_whole_configuration(name: str) -> None:
    whole = load([CONFIGS / f"{name}.yaml"])
    values = whole.model_dump(mode="json")
    again = parse_part(part_of(values, [(key,) for key in values]), "rule x")
    assert (again.model_dump(), again.model_dump(mode="json")) == (whole.model_dump(), values)


def test_a_part_has_its_keys_with_their_values_and_is_dumped_without_others() -> None:
    found = part(("simulated", "queries"), ("models", "resnet50", "qos_ms"), ("policies", "Planaria"))
    assert found.simulated.queries == WHOLE.simulated.queries
    assert found.models["resnet50"].qos_ms == WHOLE.models["resnet50"].qos_ms
    assert found.policies["Planaria"].path == WHOLE.policies["Planaria"].path
    assert found.model_dump(mode="json") == {
        "models": {"resnet50": {"qos_ms": 15.0}},
        "simulated": {"queries": WHOLE.simulated.queries},
        "policies": {"Planaria": WHOLE.policies["Planaria"].model_dump(mode="json")},
    }


@pytest.mark.parametrize(
    ("read", "key"),
    [
        (lambda config: config.simulated.loads, "simulated.loads"),
        (lambda config: config.preset, "preset"),
        (lambda config: config.measured.seed, "measured"),
        (lambda config: config.models["resnet50"].builder, "models.resnet50.builder"),
        (lambda config: config.models["mobilenet_v2"], "models.mobilenet_v2"),
        (lambda config: config.models.get("mobilenet_v2"), "models.mobilenet_v2"),
        (lambda config: "mobilenet_v2" in config.models, "models.mobilenet_v2"),
        (lambda config: list(config.models), r"models\.\*"),
        (lambda config: dict(config.models.items()), r"models\.\*"),
        (lambda config: config.model_copy(update={"preset": "paper"}).simulated.loads, "simulated.loads"),
    ],
)
def test_reading_another_key_names_it_and_who_reads(read: Callable[[Config], Any], key: str) -> None:
    config = part(("simulated", "queries"), ("models", "resnet50", "qos_ms"))
    with pytest.raises(UndeclaredKeyError, match=f"^rule x reads {key} of the configuration, which it does"):
        read(config)


def test_the_names_of_a_whole_group_may_be_listed() -> None:
    assert list(part(("models",)).models) == list(WHOLE.models)


def test_an_attribute_that_is_no_key_is_an_error_as_ever() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        part(("qos",)).nothing  # type: ignore[attr-defined] # noqa: B018


def test_the_order_of_keys_makes_no_difference() -> None:
    values, keys = WHOLE.model_dump(mode="json"), [("qos",), ("simulated", "queries"), ("preset",)]
    assert repr(part_of(values, keys)) == repr(part_of(values, reversed(keys)))


def test_a_key_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match=r"the configuration has no key policies\.Nobody"):
        part(("policies", "Nobody", "path"))
