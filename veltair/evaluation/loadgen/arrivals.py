"""When queries arrive and for which model: LoadGen's Server scenario, bit for bit, or a recorded run.

LoadGen draws everything before it issues anything, from three engines of its own (`std::mt19937`), one a
seed. What they are used for was read off LoadGen 6.0 and checked against it: see the functions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veltair.serving.loop.query import Query, QueryRecord

_TWO_32 = 1 << 32
_LARGEST_BELOW_ONE = math.nextafter(1.0, 0.0)
MAX_SAMPLES = 65_535
_MAX_SEED = (1 << 64) - 1
# A schedule is drawn as a whole, some queries more than are expected; its times are whole ns in 64 bits.
_MOST_QUERIES, _CHUNK_QUERIES, _LONGEST_S = 20_000_000, 64, 1e9
# frompyfunc because numpy's own log is another one on each kind of CPU, while LoadGen calls libm's.
_LOG = np.frompyfunc(math.log, 1, 1)


@dataclass(frozen=True, slots=True)
class Seeds:
    """LoadGen's three seeds: of the arrival times, of the samples asked for, of their order when loaded."""

    schedule: int
    sample_index: int
    qsl: int

    @classmethod
    def derive(cls, seed: int) -> "Seeds":
        """Return the seeds of a run: `seed` itself for the schedule, two words mixed from it for the others.

        With one seed for all, gaps and samples would come from the same stream and be correlated.
        """
        _check_seed(seed)
        sample_index, qsl = np.random.SeedSequence(seed).generate_state(2)
        return cls(seed, int(sample_index), int(qsl))


def server_schedule_ns(
    qps: float, min_duration_ms: int, min_query_count: int, seed: int
) -> NDArray[np.int64]:
    """Return when LoadGen's Server scenario schedules its queries, in ns from the first, which is at 0.

    `seed` is LoadGen's `schedule_rng_seed`. Gaps are exponential with mean 1/`qps` seconds; the last arrival
    is the first one that is not before `min_duration_ms` and makes `min_query_count`. Equal seeds at two
    rates give one path, rescaled (up to whole ns). Raises ValueError where LoadGen could make no schedule.
    """
    check_server_settings(qps, min_duration_ms, min_query_count, seed)
    engine = MersenneTwister(seed)
    end_ns = min_duration_ms * 1_000_000
    chunk = math.ceil(max(min_query_count, qps * min_duration_ms / 1000) * 1.02) + _CHUNK_QUERIES
    schedule = np.zeros(1, dtype=np.int64)
    while len(schedule) < min_query_count or schedule[-1] < end_ns:
        following = schedule[-1] + np.cumsum(_gaps_ns(engine, chunk, qps))
        schedule = np.concatenate([schedule, following])
    first_after_end = int(np.searchsorted(schedule, end_ns))
    return schedule[: max(first_after_end + 1, min_query_count)]


def sample_indices(
    count: int, sample_count: int, min_query_count: int, sample_index_seed: int, qsl_seed: int
) -> NDArray[np.int64]:
    """Return which of `sample_count` samples each of LoadGen's first `count` queries asks for.

    All samples are loaded, in an order shuffled by `qsl_seed`; each query takes a position in it, uniformly,
    from the engine of `sample_index_seed`. Before that, LoadGen prepares the orders of modes that Server
    does not use, and these consume draws of the same engine: one shuffle of all samples, then as many as it
    takes to make `min_query_count` samples. So `min_query_count`, but not `count`, moves the draws.
    """
    if not 1 <= sample_count <= MAX_SAMPLES:
        raise ValueError(f"{sample_count} samples; give 1 to {MAX_SAMPLES}, as many as there are indices")
    if min_query_count < 1:
        raise ValueError(f"min_query_count is {min_query_count}; give 1 or more, as in the schedule")
    _check_seed(sample_index_seed)
    _check_seed(qsl_seed)
    loaded = _shuffled(sample_count, MersenneTwister(qsl_seed))
    engine = MersenneTwister(sample_index_seed)
    unused_shuffles = 1 + math.ceil(min_query_count / sample_count)
    bounded_draws(engine, np.tile(_shuffle_bounds(sample_count), unused_shuffles))
    return loaded[bounded_draws(engine, np.full(count, sample_count, dtype=np.uint64))]


def share_samples(weights: Mapping[str, float], copies: int = 1) -> tuple[str, ...]:
    """Return the model of each sample of a mixed query sample library.

    A model of weight w owns w x `copies` consecutive indices, in the order of `weights`. Every index is drawn
    equally often, so a model gets w / sum(weights) of the queries: {"a": 1, "b": 3} makes 4 x `copies`
    samples, a quarter of them a's. One Poisson stream split like this is one independent Poisson stream a
    model. More copies change no share, only how many different inputs a model can be given.
    """
    for model, weight in weights.items():
        is_count = isinstance(weight, int | float) and not isinstance(weight, bool) and weight == int(weight)
        if not is_count or weight < 1:
            raise ValueError(f"weight of {model} is {weight!r}; give a whole number of 1 or more")
    if copies < 1:
        raise ValueError(f"{copies} copies of the samples; give 1 or more")
    samples = tuple(model for model, weight in weights.items() for _ in range(int(weight) * copies))
    if not 1 <= len(samples) <= MAX_SAMPLES:
        raise ValueError(
            f"weights {dict(weights)} x {copies} make {len(samples)} samples; "
            f"give weights that make 1 to {MAX_SAMPLES}"
        )
    return samples


def queries(
    schedule_ns: NDArray[np.int64],
    indices: NDArray[np.int64],
    sample_models: Sequence[str],
    qos_s: Mapping[str, float],
) -> tuple[Query, ...]:
    """Return the queries of a schedule, numbered in the order of arrival.

    `schedule_ns` and `indices` are of equal length; `sample_models` names the model of each index and `qos_s`
    the latency target of each model, in seconds.
    """
    if len(schedule_ns) != len(indices):
        raise ValueError(
            f"{len(schedule_ns)} arrivals but {len(indices)} sample indices; give one an arrival"
        )
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(sample_models):
        raise ValueError(
            f"sample indices reach from {indices.min()} to {indices.max()}, but only {len(sample_models)} "
            "samples have a model; give the sample_models that the indices were drawn for"
        )
    for model in dict.fromkeys(sample_models):
        if not qos_s.get(model, 0.0) > 0:
            raise ValueError(
                f"latency target of {model} is {qos_s.get(model)}; give seconds above 0 in qos_s"
            )
    asked = [sample_models[index] for index in indices.tolist()]
    arrivals_s = (schedule_ns / 1e9).tolist()
    return tuple(
        Query(number, model, arrival_s, qos_s[model])
        for number, (model, arrival_s) in enumerate(zip(asked, arrivals_s, strict=True))
    )


def server_queries(
    qps: float,
    min_duration_ms: int,
    min_query_count: int,
    seed: int,
    *,
    sample_models: Sequence[str],
    qos_s: Mapping[str, float],
) -> tuple[Query, ...]:
    """Return the queries that a LoadGen run with these settings issues (`ServerRun` in loadgen.py)."""
    seeds = Seeds.derive(seed)
    schedule_ns = server_schedule_ns(qps, min_duration_ms, min_query_count, seeds.schedule)
    indices = sample_indices(
        len(schedule_ns), len(sample_models), min_query_count, seeds.sample_index, seeds.qsl
    )
    return queries(schedule_ns, indices, sample_models, qos_s)


def replay(records: Iterable[QueryRecord]) -> tuple[Query, ...]:
    """Return the queries of a recorded run in the order of arrival, with the first at 0 s.

    Records come from queries.parquet (`records.to_records`). A log of LoadGen is replayed by
    `queries(log.scheduled_ns, log.sample_index, sample_models, qos_s)`.
    """
    recorded = sorted((record.query for record in records), key=lambda query: (query.arrival_s, query.id))
    if not recorded:
        raise ValueError("a recorded run has no queries; give the records of a whole run")
    if len({query.id for query in recorded}) != len(recorded):
        raise ValueError("a recorded run has a query twice; give the records of one run")
    if odd := [query for query in recorded if not math.isfinite(query.arrival_s)]:
        raise ValueError(f"query {odd[0].id} arrives at {odd[0].arrival_s} s; give a finite time")
    start_s = recorded[0].arrival_s
    return tuple(query._replace(arrival_s=query.arrival_s - start_s) for query in recorded)


def check_server_settings(qps: float, min_duration_ms: int, min_query_count: int, seed: int) -> None:
    """Raise ValueError unless LoadGen's Server scenario can run with these settings."""
    if not (qps > 0 and math.isfinite(qps)):
        raise ValueError(f"the rate is {qps} queries/s; give a finite number above 0")
    if min_duration_ms < 0:
        raise ValueError(f"min_duration_ms is {min_duration_ms}; give 0 or more milliseconds")
    if min_query_count < 1:
        raise ValueError(f"min_query_count is {min_query_count}; give 1 or more")
    _check_seed(seed)
    expected = max(min_query_count, qps * min_duration_ms / 1e3)
    if expected > _MOST_QUERIES:
        raise ValueError(
            f"{qps:g} queries/s for {min_duration_ms / 1e3:g} s or {min_query_count} queries are "
            f"{expected:.3g} queries, more than the {_MOST_QUERIES} that memory holds; give a lower rate "
            "or a shorter run"
        )
    if (expected + _CHUNK_QUERIES) / qps > _LONGEST_S:
        raise ValueError(
            f"{expected:.0f} queries at {qps:g} queries/s take {expected / qps:.3g} s, which LoadGen cannot "
            "count in ns; give a higher rate"
        )


def _check_seed(seed: int) -> None:
    if not 0 <= seed <= _MAX_SEED:
        raise ValueError(f"seed {seed} is not one of LoadGen's; give 0 to {_MAX_SEED}")


class MersenneTwister:
    """LoadGen's `std::mt19937` of a seed, 32 bits a draw.

    RandomState is numpy's legacy generator, and chosen for that: its stream is frozen, and it is this one.
    """

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed % _TWO_32)
        self._returned = np.empty(0, dtype=np.uint64)

    def take(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` draws."""
        again, self._returned = self._returned[:count], self._returned[count:]
        fresh = self._state.randint(0, _TWO_32, size=count - len(again), dtype=np.uint32)
        return np.concatenate([again, fresh.astype(np.uint64)])

    def put_back(self, draws: NDArray[np.uint64]) -> None:
        """Make `draws`, the end of what was taken last, the next ones again."""
        self._returned = np.concatenate([draws, self._returned])


def _gaps_ns(engine: MersenneTwister, count: int, qps: float) -> NDArray[np.int64]:
    """Return gaps as `std::exponential_distribution<double>` makes them of two draws each, in whole ns."""
    low, high = engine.take(2 * count).reshape(count, 2).T.astype(np.float64)
    uniform = np.minimum((low + high * float(_TWO_32)) / float(1 << 64), _LARGEST_BELOW_ONE)
    gaps_s = -np.asarray(_LOG(1.0 - uniform), dtype=np.float64) / qps
    return (gaps_s * 1e9).astype(np.int64)


def bounded_draws(engine: MersenneTwister, bounds: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return one number in [0, bound) for each bound, as `std::uniform_int_distribution` draws them.

    Lemire's method: draw x bound has the number in its upper 32 bits; where its lower bits fall below
    2^32 mod bound it is refused, and the next draw tried. That is rare, so whole chunks are drawn at once.
    """
    numbers = np.empty(len(bounds), dtype=np.int64)
    done = 0
    while done < len(bounds):
        wanted = bounds[done : done + 4096]
        draws = engine.take(len(wanted))
        products = draws * wanted
        refused = np.flatnonzero(products % _TWO_32 < _TWO_32 % wanted)
        kept = int(refused[0]) if len(refused) else len(wanted)
        numbers[done : done + kept] = products[:kept] // _TWO_32
        engine.put_back(draws[kept + 1 :])
        done += kept
    return numbers


def _shuffle_bounds(count: int) -> NDArray[np.uint64]:
    """Return the bounds that `std::shuffle` of libstdc++ draws below, for up to 65535 items.

    Items are swapped into place two at a time, by one draw below the product of both ranges; of an even
    number of items the second is swapped alone first.
    """
    alone = [2] if count % 2 == 0 else []
    pairs = [item * (item + 1) for item in range(2 + len(alone), count, 2)]
    return np.array(alone + pairs, dtype=np.uint64)


def _shuffled(count: int, engine: MersenneTwister) -> NDArray[np.int64]:
    """Return 0 ... `count` - 1 in the order that `std::shuffle` leaves them in."""
    items = list(range(count))
    drawn = bounded_draws(engine, _shuffle_bounds(count)).tolist()
    positions: list[int] = [drawn.pop(0)] if count % 2 == 0 else []
    for number in drawn:
        positions.extend(divmod(number, len(positions) + 3))
    for item, position in enumerate(positions, start=1):
        items[item], items[position] = items[position], items[item]
    return np.array(items, dtype=np.int64)
