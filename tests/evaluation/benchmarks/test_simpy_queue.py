import numpy as np
import pytest

from veltair.evaluation.benchmarks.simpy_queue import Service, simpy_ends_s
from veltair.serving.loop.query import Query


def queries(*arrivals: tuple[str, float]) -> list[Query]:
    return [Query(number, model, time_s, 1.0) for number, (model, time_s) in enumerate(arrivals)]


def ones(count: int, layers: int) -> list[np.ndarray]:
    return [np.ones(layers)] * count


def test_a_query_waits_until_its_cores_are_free_and_so_does_everyone_behind_it() -> None:
    # 4 cores: 0 holds 3 until 2 s, so 1 (2 cores) waits, and 2 (1 core) behind it, though a core is free.
    services = {"wide": Service(3, (2.0,)), "two": Service(2, (1.0,)), "narrow": Service(1, (1.0,))}
    trace = queries(("wide", 0.0), ("two", 0.5), ("narrow", 0.5))
    assert simpy_ends_s(trace, services, ones(3, 1), cores=4) == {0: 2.0, 1: 3.0, 2: 3.0}


def test_layers_follow_each_other_each_times_its_factor() -> None:
    services = {"net": Service(1, (1.0, 2.0))}
    assert simpy_ends_s(queries(("net", 0.25)), services, [np.array([2.0, 0.25])], cores=1) == {0: 2.75}


def test_factors_for_other_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        simpy_ends_s(queries(("net", 0.0)), {"net": Service(1, (1.0, 2.0))}, ones(1, 1), cores=1)


def test_queries_come_at_their_times_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    times_s = rng.exponential(0.1, 500).cumsum().tolist()
    ends_s = simpy_ends_s(
        queries(*(("net", time_s) for time_s in times_s)), {"net": Service(1, (0.0,))}, ones(500, 1), cores=1
    )
    assert list(ends_s.values()) == times_s
