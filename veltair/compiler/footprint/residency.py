"""What the layers of a network find in a cache where earlier ones left it, and what is written back. Pure.

A network is run again and again. Whatever it touches is a part of some memory: of the inputs and activations
of a query, which lie in one arena; of the work space of kernels; or the constants of a layer. How much of a
part is still in a cache depends on what else was touched since, as in any cache that throws out first what
was used least recently (Mattson et al., IBM Systems Journal 9(2), 1970: stack distances).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Where residency is sampled: shares of an L3, up to all of a large server's.
RESIDENT_CACHE_BYTES = tuple(2**power for power in range(19, 29))

# A first byte and a number of bytes.
Span = tuple[int, int]
# How much of a cache is full of what was not to be kept, and the softness of its edge: chosen once, on caches
# simulated under five networks with 50 sizes (docs/validation.md).
SLACK = 0.1


@dataclass(frozen=True, slots=True)
class LayerBuffers:
    """The memory that a layer touches.

    `reads` and `writes` are spans of a query's memory. `constant_bytes` and `work_space_bytes` have a number
    for each version: the constants as it packs them, and temporaries that outlive an iteration.
    """

    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    constant_bytes: tuple[int, ...]
    work_space_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = [*self.constant_bytes, *self.work_space_bytes]
        numbers += [number for span in (*self.reads, *self.writes) for number in span]
        if min(numbers, default=0) < 0 or len(self.constant_bytes) != len(self.work_space_bytes):
            raise ValueError(f"{self}: bytes are not negative, and each version has both kinds of them")


@dataclass(frozen=True, slots=True)
class NetworkBuffers:
    """The memory of a network: `inputs` are the spans written before each query, `layers` run in order."""

    inputs: tuple[Span, ...]
    layers: tuple[LayerBuffers, ...]


@dataclass(frozen=True, slots=True)
class Reuse:
    """Some bytes that are touched again, and the least and the most bytes that were touched since."""

    nbytes: int
    least: int
    most: int

    def found(self, cache_bytes: float) -> float:
        """Return how many of the bytes a cache still has: between both distances, a part."""
        if cache_bytes <= 0.0:
            return 0.0
        usable = (1.0 + SLACK) * cache_bytes - self.least
        share = usable / (self.most - self.least + SLACK * cache_bytes)
        return self.nbytes * min(1.0, max(0.0, share))


@dataclass(frozen=True, slots=True)
class LayerReuse:
    """What a layer finds, and what of its results is written back.

    `within` was last touched in the same query, `old` in the one before. Each entry of `written` is a part
    that the layer writes: its bytes, and its later uses until it is written again. What one of these does not
    find was written back.
    """

    within: tuple[Reuse, ...]
    old: tuple[Reuse, ...]
    written: tuple[tuple[int, tuple[Reuse, ...]], ...]

    def found_within(self, cache_bytes: float) -> float:
        """Return the bytes that it finds of its own query in a cache."""
        return sum(reuse.found(cache_bytes) for reuse in self.within)

    def found_old(self, cache_bytes: float) -> float:
        """Return the bytes that it finds of the query before, if nothing else ran in between."""
        return sum(reuse.found(cache_bytes) for reuse in self.old)

    def written_back(self, cache_bytes: float) -> float:
        """Return the bytes of its results that leave a cache before they are written again."""
        return sum(
            nbytes - min((reuse.found(cache_bytes) for reuse in later), default=0.0)
            for nbytes, later in self.written
        )


@dataclass(frozen=True, slots=True)
class Residency:
    """What a layer finds in caches of `RESIDENT_CACHE_BYTES`, of its own query and of an older one.

    `written_bytes` are those of its results that leave such a cache. A larger cache has no less of what is
    sought, and loses no more.
    """

    within_bytes: tuple[int, ...]
    old_bytes: tuple[int, ...]
    written_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        falling = (self.within_bytes[::-1], self.old_bytes[::-1], self.written_bytes)
        if any(len(amounts) != len(RESIDENT_CACHE_BYTES) for amounts in falling):
            raise ValueError(f"{self}: give bytes for {len(RESIDENT_CACHE_BYTES)} caches")
        if any(more < less for amounts in falling for more, less in pairwise((*amounts, 0))):
            raise ValueError(
                f"{self}: a larger cache finds no less and writes no more, and no negative bytes"
            )


def sampled(reuse: LayerReuse) -> Residency:
    """Return the residency of a layer, in whole bytes."""
    kinds = (reuse.found_within, reuse.found_old, reuse.written_back)
    return Residency(*(tuple(round(of(size)) for size in RESIDENT_CACHE_BYTES) for of in kinds))


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of a layer (-1: the arrival of a query's inputs): what it touches and what of it it writes."""

    layer: int
    touched: frozenset[int]
    written: frozenset[int]


def network_reuse(
    network: NetworkBuffers, versions: Sequence[int], *, cold: bool = False
) -> tuple[LayerReuse, ...]:
    """Return what each layer of a network finds, the layers run in some versions, query after query.

    `cold`: of the first query alone, which finds nothing old, and whose results are written back if they
    leave the cache before its end.
    """
    return _Reuses(network, versions, cold).layers()


def version_reuse(network: NetworkBuffers, versions: Sequence[int]) -> tuple[tuple[LayerReuse, ...], ...]:
    """Return the same for each version of each layer, while all others run in the versions given."""
    common = _Reuses(network, versions, cold=False)
    rows = []
    for number, layer in enumerate(network.layers):
        row = []
        for version in range(len(layer.constant_bytes)):
            if version == versions[number]:
                row.append(common.layer(number))
            else:
                own = [*versions[:number], version, *versions[number + 1 :]]
                row.append(_Reuses(network, own, cold=False).layer(number))
        rows.append(tuple(row))
    return tuple(rows)


class _Reuses:
    """The steps of a network, and the distance of each use of a part from its last one, as they are asked."""

    def __init__(self, network: NetworkBuffers, versions: Sequence[int], cold: bool) -> None:
        self._cold = cold
        self._sizes: list[int] = []
        self._steps = list(self._read(network, versions))
        self._count = len(network.layers)
        self._known: dict[int, Mapping[int, tuple[Reuse, bool]]] = {}

    def layers(self) -> tuple[LayerReuse, ...]:
        return tuple(self.layer(number) for number in range(self._count))

    def layer(self, number: int) -> LayerReuse:
        own = [index for index, step in enumerate(self._steps) if step.layer == number]
        found = [one for index in own for one in self._found(index).values()]
        return LayerReuse(
            tuple(reuse for reuse, is_old in found if not is_old),
            () if self._cold else tuple(reuse for reuse, is_old in found if is_old),
            tuple(
                (self._sizes[part], tuple(self._later(index, part)))
                for index in own
                for part in sorted(self._steps[index].written)
            ),
        )

    def _found(self, index: int) -> Mapping[int, tuple[Reuse, bool]]:
        """Return the reuse of each part that a step touches, and whether it was last touched a query ago."""
        if index not in self._known:
            self._known[index] = self._look_back(index, self._steps[index].touched)
        return self._known[index]

    def _look_back(self, index: int, wanted: frozenset[int]) -> dict[int, tuple[Reuse, bool]]:
        found: dict[int, tuple[Reuse, bool]] = {}
        between: set[int] = set()
        between_bytes, missing, count = 0, set(wanted), len(self._steps)
        for back in range(1, count + 1):
            before = self._steps[index - back if index >= back else index - back + count].touched
            for part in missing & before:
                distances = self._distances(part, between, between_bytes, before, wanted)
                found[part] = (Reuse(self._sizes[part], *distances), back > index)
            missing -= before
            if not missing:
                break
            between_bytes += self._bytes(before - between)
            between |= before
        return found

    def _distances(
        self, part: int, between: set[int], between_bytes: int, before: frozenset[int], now: frozenset[int]
    ) -> tuple[int, int]:
        """Return the least and the most that was touched between two uses of a part.

        Both steps pass over all that they touch side by side. So of what only the first one touches as much
        follows the first use as is left of the part then, and likewise the other way round.
        """
        both, only_before, only_now = 0, 0, 0
        for other in before - between:
            if other != part:
                if other in now:
                    both += self._sizes[other]
                else:
                    only_before += self._sizes[other]
        for other in now - between - before:
            only_now += self._sizes[other]
        base = self._sizes[part] + between_bytes + both
        return base + min(only_before, only_now), base + max(only_before, only_now)

    def _later(self, index: int, part: int) -> Iterable[Reuse]:
        """Yield the uses of a part after a step that writes it, up to the next one that does."""
        count = len(self._steps)
        last = index
        for ahead in range(index + 1, count if self._cold else index + count + 1):
            step = self._steps[ahead % count]
            if part in step.touched:
                last = ahead
                yield self._found(ahead % count)[part][0]
                if part in step.written:
                    return
        if self._cold:
            yield self._until_end(last, part)

    def _until_end(self, index: int, part: int) -> Reuse:
        beside = self._steps[index].touched - {part}
        after: set[int] = set()
        for step in self._steps[index + 1 :]:
            after |= step.touched
        base = self._sizes[part] + self._bytes(after)
        return Reuse(self._sizes[part], base, base + self._bytes(beside - after))

    def _bytes(self, parts: Iterable[int]) -> int:
        return sum(self._sizes[part] for part in parts)

    def _read(self, network: NetworkBuffers, versions: Sequence[int]) -> Iterable[_Step]:
        """Yield the steps; parts are numbered, and their sizes noted.

        A layer with work space is two steps: the first input goes there, and all else follows from it.
        """
        spans = [
            *network.inputs,
            *(span for layer in network.layers for span in (*layer.reads, *layer.writes)),
        ]
        memory = _Parts(spans)
        works = [layer.work_space_bytes[v] for layer, v in zip(network.layers, versions, strict=True)]
        work_space = _Parts([(0, size) for size in works])
        first_work = len(memory.sizes)
        self._sizes += [*memory.sizes, *work_space.sizes]
        arrived = frozenset(memory.of(network.inputs))
        if arrived:
            yield _Step(-1, arrived, arrived)
        for number, (layer, version) in enumerate(zip(network.layers, versions, strict=True)):
            reads, writes = memory.of(layer.reads), memory.of(layer.writes)
            constants = {len(self._sizes)} if layer.constant_bytes[version] else set()
            self._sizes += [layer.constant_bytes[version]] * len(constants)
            work = {first_work + part for part in work_space.of([(0, works[number])])}
            if work:
                first = memory.of(layer.reads[:1])
                yield _Step(number, frozenset(first | work), frozenset(work))
                reads = memory.of(layer.reads[1:])
            yield _Step(number, frozenset(reads | writes | constants | work), frozenset(writes))


class _Parts:
    """Memory cut where a span begins or ends: parts that are touched as wholes, by number."""

    def __init__(self, spans: Sequence[Span]) -> None:
        cuts = sorted({edge for first, size in spans if size for edge in (first, first + size)})
        self._number = {cut: number for number, cut in enumerate(cuts)}
        self.sizes = [stop - start for start, stop in pairwise(cuts)]

    def of(self, spans: Iterable[Span]) -> set[int]:
        return {
            part
            for first, size in spans
            if size
            for part in range(self._number[first], self._number[first + size])
        }
