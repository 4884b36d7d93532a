"""Lists of core ids in the notation of Linux: `0-3,8,10-11`."""

from collections.abc import Iterable

HIGHEST = 2**16  # far more than Linux can have


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Return the core ids, ascending, each once. Raises ValueError on anything but ranges and numbers."""
    ids: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is not a list of core ids; write it like 0-3,8")
        start, stop = int(first), int(last if dash else first)
        if stop < start:
            raise ValueError(f"{text!r} has a range that runs backwards; write it like 0-3,8")
        if stop > HIGHEST:
            raise ValueError(f"{text!r} has ids above {HIGHEST}; write it like 0-3,8")
        ids.update(range(start, stop + 1))
    return tuple(sorted(ids))


def format_cpu_list(ids: Iterable[int]) -> str:
    """Return the shortest text that `parse_cpu_list` reads as these ids."""
    ranges: list[list[int]] = []
    for core in sorted(set(ids)):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
