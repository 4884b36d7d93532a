from tests.support.isolation_tables import equal_drops_table
from tests.support.plot_tables import rate_table, seed_table, target_table
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder
from veltair.evaluation.reports.equal_drops import equal_drops_section
from veltair.evaluation.reports.summary import summary_markdown


def seeds():
    made = seed_table(["Planaria", "FcfsMin"], [1, 2], ["mix"])
    rates = {"Planaria": 10.0, "FcfsMin": 5.0}
    return made.assign(qps_at_95=made["policy"].map(rates))


def cells(policy: str, lines) -> list[str]:
    (line,) = (line for line in lines if f"| {policy} " in line)
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_each_policy_has_its_rate_under_both_rules_and_its_ratio_under_the_one() -> None:
    lines = equal_drops_section(seeds(), equal_drops_table(seeds()), AS_THEY_COME)
    assert cells("Planaria", lines) == ["mix", "Planaria", "when_doomed", "10", "12", "1"]
    assert cells("FcfsMin", lines)[3:] == ["5", "6", "0.5"]
    assert "drop_late: when_doomed" in " ".join(lines)


def test_who_was_not_compared_or_has_no_such_option_is_said() -> None:
    ruled = equal_drops_table(seeds())
    ruled.loc[ruled["policy"] == "FcfsMin", "drop_late"] = ""
    usual = seeds()[seeds()["policy"] == "Planaria"]
    found = cells("FcfsMin", equal_drops_section(usual, ruled, AS_THEY_COME))
    assert found[2:4] == ["no such option", "\N{EN DASH}"]


def test_the_summary_has_the_section_where_there_is_the_table_and_states_the_options() -> None:
    made = seeds().assign(answer="")
    order = PolicyOrder(options={"Planaria": {"order": "fcfs"}, "FcfsMin": {"order": "edf"}})
    plain = summary_markdown(made, rate_table(made), target_table(), order=order)
    assert "One rule for late queries" not in plain
    assert "Options order: fcfs; but edf of FcfsMin." in plain
    whole = summary_markdown(
        made, rate_table(made), target_table(), ruled=equal_drops_table(made), order=order
    )
    assert "## One rule for late queries" in whole


def test_the_summary_says_how_evenly_the_tenants_were_served() -> None:
    made = seeds().assign(answer="")
    rates = rate_table(made).assign(satisfaction_minimum=0.5, jain=0.9, antt=3.0, stp=1.25)
    text = summary_markdown(made, rates, target_table())
    (line,) = (line for line in text.splitlines() if line.startswith("| Planaria ") and "1.25" in line)
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["50 %", "0.9", "3", "1.25"]
