import hashlib
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.loadgen.arrivals import (
    MersenneTwister,
    Seeds,
    bounded_draws,
    queries,
    replay,
    sample_indices,
    server_queries,
    server_schedule_ns,
    share_samples,
)
from veltair.serving.loop.query import Ending, Query, QueryRecord

# When LoadGen 6.0.17 scheduled queries at 200 QPS for 2000 ms, at least 100, with schedule_rng_seed 12345.
GOLDEN = (200.0, 2000, 100, 12345)
GOLDEN_START_NS = [0, 11043411, 11743787, 11946644, 20702692]
GOLDEN_SHA256 = "c5e11279b9f7700c5073fdbed9363682060d2dfea83804e1e51623610b3c6d20"

RATES = st.floats(0.5, 5000)
DURATIONS_MS = st.integers(0, 3000)
COUNTS = st.integers(1, 400)
SEEDS = st.integers(0, 2**64 - 1)


def sha256(numbers):
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()


def test_the_schedule_is_loadgens_bit_for_bit():
    schedule_ns = server_schedule_ns(*GOLDEN)
    assert len(schedule_ns) == 402
    assert schedule_ns[:5].tolist() == GOLDEN_START_NS
    assert sha256(schedule_ns) == GOLDEN_SHA256


def test_the_schedule_does_not_depend_on_the_vector_instructions_of_the_cpu():
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    program = (
        "import hashlib; from veltair.evaluation.loadgen.arrivals import server_schedule_ns\n"
        f"print(hashlib.sha256(server_schedule_ns(*{GOLDEN}).astype('<i8').tobytes()).hexdigest())"
    )
    root = Path(__file__).parents[3]
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found), "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == GOLDEN_SHA256


# Recorded from LoadGen 6.0.17 itself: samples, min_query_count, sample_index_rng_seed, qsl_rng_seed, then the
# number of queries, the first five samples asked for and the start of the digest of all. Even and odd counts
# shuffle differently, and 65535 is the most that are shuffled two at a time.
@pytest.mark.parametrize(
    ("arguments", "count", "start", "digest"),
    [
        ((10, 100, 2, 1), 402, [3, 2, 4, 5, 0], "4a5a43d66a5bc148"),
        ((7, 333, 88, 77), 333, [0, 2, 5, 2, 4], "3b7b03c16e524ce5"),
        ((64, 333, 88, 77), 333, [62, 54, 44, 40, 63], "9092c8a75acc8838"),
        ((5000, 11000, 6, 5), 11000, [3740, 4274, 4988, 2638, 2567], "a33a777c6e8accd8"),
        ((65535, 110, 6, 5), 577, [45578, 12142, 27992, 27833, 24518], "c3e70a18272c53cd"),
    ],
)
def test_the_samples_are_loadgens(arguments, count, start, digest):
    indices = sample_indices(count, *arguments)
    assert indices[: len(start)].tolist() == start
    assert sha256(indices)[:16] == digest


@given(RATES, DURATIONS_MS, COUNTS, SEEDS)
def test_a_schedule_starts_at_zero_rises_and_ends_as_soon_as_it_is_long_enough(qps, duration_ms, count, seed):
    schedule_ns = server_schedule_ns(qps, duration_ms, count, seed)
    assert schedule_ns[0] == 0
    assert (np.diff(schedule_ns) >= 0).all()
    assert len(schedule_ns) >= count
    assert schedule_ns[-1] >= duration_ms * 1_000_000
    assert len(schedule_ns) == count or schedule_ns[-2] < duration_ms * 1_000_000


@given(RATES, DURATIONS_MS, COUNTS, SEEDS)
def test_a_longer_schedule_continues_the_shorter_one(qps, duration_ms, count, seed):
    short = server_schedule_ns(qps, duration_ms, count, seed)
    long = server_schedule_ns(qps, 2 * duration_ms + 50, count + 1000, seed)
    assert long[: len(short)].tolist() == short.tolist()


@given(st.floats(1, 1000), st.floats(0.1, 10), SEEDS)
def test_the_same_seed_at_another_rate_is_the_same_path_rescaled(qps, factor, seed):
    slow = server_schedule_ns(qps, 0, 200, seed)
    fast = server_schedule_ns(qps * factor, 0, 200, seed)
    # Each gap is cut to whole ns, so a path of k gaps is less than k ns short, in either schedule.
    gaps = np.arange(200)
    assert (np.abs(slow - fast * factor) <= gaps * max(1.0, factor) + slow * 1e-12 + 1e-9).all()


@given(SEEDS)
def test_gaps_are_made_with_the_logarithm_of_the_c_library(seed):
    # So slow that one gap is about 10^15 ns: what is cut to whole ns still shows the logarithm's last bits.
    draws = np.random.RandomState(seed % 2**32).randint(0, 2**32, size=(200, 2), dtype=np.uint32).tolist()
    gaps_s = [-math.log(1.0 - (low + high * 2.0**32) / 2.0**64) / 1e-6 for low, high in draws]
    schedule_ns = server_schedule_ns(1e-6, 0, 201, seed)
    assert np.diff(schedule_ns).tolist() == [int(gap_s * 1e9) for gap_s in gaps_s]


def test_only_the_lower_32_bits_of_a_seed_count():
    assert sha256(server_schedule_ns(200, 2000, 100, 12345 + 2**32)) == GOLDEN_SHA256


def test_the_seeds_of_a_run_are_its_own_for_the_schedule_and_others_beside_it():
    seeds = Seeds.derive(12345)
    assert seeds.schedule == 12345
    assert len({seeds.schedule, seeds.sample_index, seeds.qsl}) == 3
    assert seeds == Seeds.derive(12345)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ((0.0, 1000, 1, 0), "rate is 0.0"),
        ((float("nan"), 1000, 1, 0), "rate is nan"),
        ((float("inf"), 1000, 1, 0), "rate is inf"),
        ((1.0, -1, 1, 0), "min_duration_ms is -1"),
        ((1.0, 1000, 0, 0), "min_query_count is 0"),
        ((1.0, 1000, 1, -1), "seed -1"),
        ((1.0, 1000, 1, 2**64), "seed 18446744073709551616"),
    ],
)
def test_settings_that_loadgen_could_not_run_are_refused(refused, message):
    with pytest.raises(ValueError, match=message):
        server_schedule_ns(*refused)


# Bounds close to 2^32 are refused up to half of the time, small ones hardly ever.
@given(st.lists(st.integers(1, 2**32 - 1) | st.integers(1, 100), max_size=50), st.integers(0, 2**32 - 1))
def test_bounded_numbers_are_those_of_drawing_one_at_a_time(bounds, seed):
    state = np.random.RandomState(seed)

    def one(bound):
        while True:
            product = int(state.randint(0, 2**32, dtype=np.uint32)) * bound
            if product % 2**32 >= 2**32 % bound:
                return product >> 32

    engine = MersenneTwister(seed)
    assert bounded_draws(engine, np.array(bounds, dtype=np.uint64)).tolist() == [one(b) for b in bounds]
    assert engine.take(3).tolist() == state.randint(0, 2**32, size=3, dtype=np.uint32).tolist()


@given(st.integers(1, 300), st.integers(0, 500), COUNTS, SEEDS)
def test_every_sample_index_names_a_sample(samples, count, minimum, seed):
    indices = sample_indices(count, samples, minimum, seed, seed)
    assert len(indices) == count
    assert ((indices >= 0) & (indices < samples)).all()


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 4))
def test_each_model_owns_as_many_samples_as_its_weight_says(weights, copies):
    samples = share_samples(weights, copies)
    assert Counter(samples) == {model: weight * copies for model, weight in weights.items()}


def test_models_are_asked_for_in_proportion_to_their_weights():
    samples = share_samples({"a": 1, "b": 3})
    assert samples == ("a", "b", "b", "b")
    indices = sample_indices(100_000, len(samples), 100, 1, 2)
    # A binomial share of 100,000 draws at 1/4 has a standard deviation of 0.0014.
    assert Counter(samples[index] for index in indices)["a"] / 100_000 == pytest.approx(0.25, abs=0.006)


@pytest.mark.parametrize("weight", [0, -1, 0.5, True, "1"])
def test_a_weight_that_is_no_count_is_refused(weight):
    with pytest.raises(ValueError, match="weight of a is"):
        share_samples({"a": weight})


def test_no_samples_and_too_many_samples_are_refused():
    with pytest.raises(ValueError, match="make 0 samples"):
        share_samples({})
    with pytest.raises(ValueError, match="make 65536 samples"):
        share_samples({"a": 65536})


def test_queries_are_numbered_by_arrival_and_carry_the_target_of_their_model():
    made = queries(np.array([0, 1_500_000_000]), np.array([1, 0]), ("a", "b"), {"a": 0.01, "b": 0.1})
    assert made == (Query(0, "b", 0.0, 0.1), Query(1, "a", 1.5, 0.01))


def test_server_queries_are_the_golden_schedule_with_a_model_each():
    made = server_queries(*GOLDEN, sample_models=("a", "b"), qos_s={"a": 0.01, "b": 0.1})
    assert [round(query.arrival_s * 1e9) for query in made[:5]] == GOLDEN_START_NS
    assert {query.model for query in made} == {"a", "b"}


@pytest.mark.parametrize(
    ("indices", "qos_s", "message"),
    [
        ([0], {"a": 1.0, "b": 1.0}, "2 arrivals but 1 sample"),
        ([0, 2], {"a": 1.0, "b": 1.0}, "0 to 2, but only 2 samples"),
        ([-1, 0], {"a": 1.0, "b": 1.0}, "-1 to 0, but only 2 samples"),
        ([0, 1], {"a": 1.0}, "target of b is None"),
        ([0, 1], {"a": 0.0, "b": 1.0}, "target of a is 0.0"),
    ],
)
def test_queries_without_a_model_or_a_target_are_refused(indices, qos_s, message):
    with pytest.raises(ValueError, match=message):
        queries(np.array([0, 1]), np.array(indices), ("a", "b"), qos_s)


def record(number, arrival_s):
    query = Query(number, "a", arrival_s, 0.01)
    return QueryRecord(query, Ending.SERVED, arrival_s, arrival_s + 0.005, 1, 0, 0.005)


def test_a_recorded_run_is_replayed_in_the_order_of_arrival_from_zero():
    replayed = replay([record(1, 10.5), record(0, 10.0), record(2, 12.0)])
    assert [(query.id, query.arrival_s) for query in replayed] == [(0, 0.0), (1, 0.5), (2, 2.0)]


def test_records_of_several_runs_or_of_none_are_not_replayed():
    with pytest.raises(ValueError, match="a query twice"):
        replay([record(0, 1.0), record(0, 2.0)])
    with pytest.raises(ValueError, match="no queries"):
        replay([])


@pytest.mark.parametrize(
    ("qps", "duration_ms", "queries", "message"),
    [
        (1e-9, 0, 100, "which LoadGen cannot count in ns; give a higher rate"),
        (1e12, 1000, 1, "more than the 20000000 that memory holds"),
        (1.0, 0, 10**9, "more than the 20000000 that memory holds"),
    ],
)
def test_a_schedule_that_nothing_can_hold_is_refused(
    qps: float, duration_ms: int, queries: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        server_schedule_ns(qps, duration_ms, queries, 1)
