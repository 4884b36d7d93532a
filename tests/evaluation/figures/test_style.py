import pytest

from veltair.evaluation.figures.style import LABEL_WIDTH, PolicyStyle, fold
from veltair.evaluation.metrics.policies_table import PolicyOrder

LONG = "my_schedulers.experimental.slack_priced:SlackPricedElasticPolicyWithAdmission"


def test_a_policy_looks_the_same_whichever_others_are_shown() -> None:
    order = PolicyOrder(styles=["FcfsMin", "Veltair-AC"])
    alone, among = (
        PolicyStyle(names, order) for names in (["Veltair-AC"], ["Mine", "Veltair-AC", "FcfsMin"])
    )
    for looks in ("colours", "markers", "dashes", "hatches"):
        assert getattr(alone, looks)["Veltair-AC"] == getattr(among, looks)["Veltair-AC"]


@pytest.mark.parametrize("name", ["Planaria", "Veltair-FULL", LONG, "x" * 90])
def test_names_take_at_most_two_lines(name: str) -> None:
    lines = fold(name).split("\n")
    assert len(lines) <= 2 and max(map(len, lines)) <= LABEL_WIDTH + 1
    assert name.endswith("".join(lines).removeprefix("…"))
