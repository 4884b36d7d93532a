from collections.abc import Sequence

import numpy as np
import pytest

from veltair.evaluation.benchmarks.service.figures import (
    MISSED_S,
    QUOTA_TIMES,
    Ask,
    Load,
    Paired,
    added_figures,
    growth_figure,
    isolation_figures,
    loads_figures,
    rejection_figures,
    server_figures,
)


def paired(served_ms: float, in_process_ms: float, floor_ms: float) -> Paired:
    spread = np.linspace(0, 1, 101)
    return Paired(*(1e-3 * (value + spread) for value in (served_ms, in_process_ms, floor_ms)))


def test_what_a_service_adds_is_the_median_of_the_rounds_differences() -> None:
    rounds = [paired(3, 1, 0.5), paired(9, 1, 0.5), paired(4, 2, 0.5)]
    figures = added_figures("9kb", rounds)
    assert figures["added_p50_ms_9kb"].value == pytest.approx(2)
    assert figures["added_p50_ms_9kb"].samples == pytest.approx((2, 8, 2))
    assert figures["added_p99_ms_9kb"].value == pytest.approx(2)
    assert figures["floor_p50_ms_9kb"].value == pytest.approx(1.0)
    assert figures["floor_p99_ms_9kb"].value == pytest.approx(1.49)


def test_a_slow_request_in_a_hundred_shows_in_the_p99_and_not_in_the_p50() -> None:
    one = paired(3, 1, 0.5)
    one.served_s[-2:] = 1.0
    figures = added_figures("9kb", [one])
    assert figures["added_p50_ms_9kb"].value == pytest.approx(2)
    assert figures["added_p99_ms_9kb"].value > 900


def test_the_time_of_the_front_is_that_of_one_request() -> None:
    figures = server_figures("9kb", {"queue": 0.2}, front_cpu_s=0.6, requests=1000)
    assert figures["front_cpu_ms_9kb"].value == pytest.approx(0.6)
    assert figures["server_queue_ms_9kb"].value == 0.2


def load(latency_s: float, asked: int = 100, missed: int = 0, code: int = 200) -> Load:
    asks = [Ask(latency_s, code)] * (asked - missed) + [Ask(10.0, 200)] * missed
    return Load(tuple(asks))


def isolated(*rounds: Sequence[Load]) -> list[dict[int, Load]]:
    return [dict(zip(QUOTA_TIMES, one, strict=True)) for one in rounds]


def test_a_victim_loses_what_it_had_on_time_without_the_aggressor() -> None:
    quick = load(0.01)
    rounds = isolated((quick, quick, load(0.01, missed=3)), (quick, quick, load(0.01, missed=3)))
    figures = isolation_figures("victim", rounds, qos_s=0.05)
    assert figures["victim_loss_points"].value == pytest.approx(3)
    assert figures["victim_p99_ratio"].value > 100
    assert figures["victim_p99_ratio_at_quota"].value == pytest.approx(1)


def test_a_refusal_is_not_on_time_however_quick_and_no_quick_answer() -> None:
    refused = Load((Ask(0.001, 503),) * 50 + (Ask(0.002, 200),) * 50)
    assert refused.on_time(0.05) == 0.5
    assert refused.percentile_s(1) == pytest.approx(0.002)
    assert refused.codes == {503: 50, 200: 50}
    assert Load((Ask(0.001, 503),)).percentile_s(50) == MISSED_S


def test_of_refusals_the_slower_kind_counts() -> None:
    figures = rejection_figures({429: [0.001] * 100, 503: [0.003] * 100}, [0.0005] * 100)
    assert figures["rejection_p99_ms_429"].value == pytest.approx(1)
    assert figures["rejection_p99_ms"].value == figures["rejection_p99_ms_503"].value == pytest.approx(3)
    assert figures["rejection_floor_p99_ms"].value == pytest.approx(0.5)


def test_loads_show_in_what_others_wait_and_lose_beside_the_quiet_slot_of_the_same_round() -> None:
    refused = Load((Ask(0.01, 200),) * 90 + (Ask(0.01, 503),) * 10)
    pairs = [(load(0.01), load(0.02)), (load(0.01), load(0.011)), (load(0.02), load(0.02))]
    figures = loads_figures(pairs, 7, qos_s=0.05)
    assert figures["others_p99_during_loads"].value == pytest.approx(1.1)
    assert "7 loads" in figures["others_p99_during_loads"].unit
    lost = loads_figures([(load(0.01), refused)], 1, qos_s=0.05)["others_loss_points_during_loads"]
    assert lost.value == pytest.approx(10)


def test_growth_is_relative_to_the_memory_after_the_first_cycles_and_says_of_how_many() -> None:
    figure = growth_figure([100, 200, 200, 202], warm=1, cycles=300)
    assert figure.value == pytest.approx(0.01)
    assert "300" in figure.unit
