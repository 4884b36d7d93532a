import colorsys

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


def test_a_family_has_shades_of_one_colour_and_its_first_member_the_colour_itself() -> None:
    families = [["FcfsMin", "FcfsAll"], ["Planaria", "Aurora", "Room"]]
    style = PolicyStyle([*families[0], *families[1], "Mine"], PolicyOrder(families=families))
    hues = {name: colorsys.rgb_to_hsv(*colour)[0] for name, colour in style.colours.items()}
    assert hues["FcfsMin"] == pytest.approx(hues["FcfsAll"])
    assert hues["Planaria"] == pytest.approx(hues["Aurora"]) == pytest.approx(hues["Room"])
    assert hues["FcfsMin"] != pytest.approx(hues["Planaria"])
    assert style.colours["FcfsMin"] == PolicyStyle(["FcfsMin"]).colours["FcfsMin"]
    lightness = [sum(style.colours[name]) for name in families[1]]
    assert lightness == sorted(lightness) and len(set(lightness)) == len(lightness)


@pytest.mark.parametrize("name", ["Planaria", "Veltair-FULL", LONG, "x" * 90])
def test_names_take_at_most_two_lines(name: str) -> None:
    lines = fold(name).split("\n")
    assert len(lines) <= 2 and max(map(len, lines)) <= LABEL_WIDTH + 1
    assert name.endswith("".join(lines).removeprefix("…"))
