import pandas as pd
import pytest

from tests.support.evaluation.plot_tables import rate_table, seed_table, unservable
from veltair.evaluation.metrics.equal_load import at_load, at_loads, runs_at_load


def table(**answers: list[float]) -> pd.DataFrame:
    """Return seeds 1, 2, … with these answers by policy (underscores for dashes)."""
    names = {name.replace("_", "-"): values for name, values in answers.items()}
    made = seed_table(list(names), range(1, 1 + len(next(iter(names.values())))), ["mix"])
    made["qps_at_95"] = [value for values in names.values() for value in values]
    return unservable(made, made["qps_at_95"] == 0)


def runs(policy: str, *points: tuple[float, int, float]) -> pd.DataFrame:
    """Return runs of (qps, seed, mean latency)."""
    one = rate_table(seed_table([policy], [1], ["mix"]), (0.5,)).iloc[0].to_dict()
    return pd.DataFrame(
        [one | {"qps": qps, "seed": seed, "latency_mean_s": latency} for qps, seed, latency in points]
    )


def test_a_load_is_a_share_of_planarias_capacity_with_the_same_seed() -> None:
    made = table(Planaria=[10.0, 20.0], Veltair_FULL=[15.0, 40.0])
    rates = rate_table(made, (0.5, 0.7)).assign(latency_mean_s=lambda rows: rows["qps"])
    found = at_load(rates, made, "latency_mean_s", 0.5).set_index("policy")
    assert found["mean"].to_dict() == {"Planaria": 7.5, "Veltair-FULL": 7.5}


def test_latencies_are_compared_seed_by_seed() -> None:
    made = table(Planaria=[10.0, 20.0], Veltair_FULL=[15.0, 40.0])
    rates = rate_table(made, (0.5,))
    rates["latency_mean_s"] = [0.1, 0.2, 0.05, 0.06]
    found = at_load(rates, made, "latency_mean_s", 0.5, "Planaria").set_index("policy")
    assert found.loc["Veltair-FULL", "mean"] == pytest.approx((0.5 + 0.3) / 2)


def test_the_best_policys_capacity_stands_in_where_planaria_has_none() -> None:
    made = table(LayerWise=[8.0], FcfsMin=[4.0])
    assert runs_at_load(runs("FcfsMin", (4.0, 1, 0.1)), made, 0.5)[["wanted_qps", "of"]].values.tolist() == [
        [4.0, "LayerWise"]
    ]


def test_of_two_runs_near_a_load_the_nearest_is_taken() -> None:
    found = at_load(
        runs("Planaria", (5.0, 1, 0.1), (5.05, 1, 0.4)), table(Planaria=[10.0]), "latency_mean_s", 0.5
    )
    assert found["mean"].tolist() == [0.1]


def test_metrics_at_both_loads_are_of_the_nearest_runs_averaged_over_seeds() -> None:
    made = table(Planaria=[10.0, 20.0])
    rates = runs("Planaria", (6.0, 1, 0.1), (7.1, 1, 0.2), (14.0, 2, 0.4), (10.0, 1, 0.8), (20.0, 2, 0.6))
    picked = at_loads(rates, made).set_index("load")
    assert picked.loc["equal", ["wanted_qps", "qps"]].tolist() == pytest.approx([10.5, 10.55])
    assert picked["latency_mean_s"].to_dict() == pytest.approx({"equal": 0.3, "own": 0.7})


def test_a_rate_too_far_from_the_wanted_one_does_not_stand_for_it() -> None:
    assert at_loads(runs("Planaria", (10.0, 1, 0.8)), table(Planaria=[10.0]))["load"].tolist() == ["own"]


def test_where_nothing_can_be_served_no_run_is_near_the_bound() -> None:
    made = table(FcfsMin=[0.0], Planaria=[0.0])
    assert at_loads(runs("FcfsMin", (1.0, 1, 9.0)), made).empty
    assert at_load(runs("FcfsMin", (1.0, 1, 9.0)), made, "latency_mean_s", 0.7).empty


def test_missing_columns_are_named() -> None:
    made = seed_table(["Planaria"], [1])
    with pytest.raises(ValueError, match=r"rates: columns \['cpu_efficiency'\]"):
        at_load(rate_table(made).drop(columns="cpu_efficiency"), made, "cpu_efficiency", 0.7)
