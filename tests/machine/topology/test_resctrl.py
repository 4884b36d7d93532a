"""Parts of the L3, on a tree of files like resctrl's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.resctrl_trees import removals, tree
from veltair.machine.topology.resctrl import CacheWays, ResctrlError, cache_ways, parted_l3, ways_by_cores

TWENTY = CacheWays(ways=20, fewest=1, parts=16, caches=(0, 1))


def test_what_the_machine_offers_is_read(tmp_path: Path) -> None:
    assert cache_ways(tree(tmp_path)) == TWENTY
    assert cache_ways(tree(tmp_path / "amd", "ffff", 2, 32, "L3:0=ffff\n")) == CacheWays(16, 2, 32, (0,))


def test_a_machine_without_it_says_so_and_partitions_share_the_l3(tmp_path: Path) -> None:
    assert cache_ways(tmp_path) is None
    with parted_l3({"a": (0, 1), "b": (2, 3)}, tmp_path) as told:
        assert told.startswith(f"no L3 allocation in {tmp_path}: partitions share the L3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cores", "has", "ways"),
    [
        ((4, 4), TWENTY, [10, 10]),
        ((6, 2), TWENTY, [15, 5]),  # 1 each, and of 18 three quarters are 13.5 and 4.5: of equals the first
        ((7, 1, 1), TWENTY, [14, 3, 3]),  # 17 by 7 : 1 : 1 are 13.2, 1.9, 1.9
        ((4, 4), CacheWays(11, 2, 4, (0,)), [6, 5]),
    ],
)
def test_ways_follow_the_cores(cores, has, ways) -> None:
    assert ways_by_cores(cores, has) == ways


@given(st.lists(st.integers(1, 64), min_size=1, max_size=8))
def test_all_ways_are_given_and_nobody_has_none(cores) -> None:
    ways = ways_by_cores(cores, TWENTY)
    assert sum(ways) == 20 and min(ways) >= 1


def test_each_partition_has_ways_of_its_own_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, removed = tree(tmp_path), removals(monkeypatch)
    with parted_l3({"light": (0, 1, 2, 3, 4, 5), "heavy": (6, 7)}, root) as told:
        assert told == "L3 of 20 ways parted: light: cores 0-5, 15 ways; heavy: cores 6-7, 5 ways"
        assert (root / "veltair-light" / "schemata").read_text() == "L3:0=7fff;1=7fff\n"
        assert (root / "veltair-light" / "cpus_list").read_text() == "0-5\n"
        assert (root / "veltair-heavy" / "schemata").read_text() == "L3:0=f8000;1=f8000\n"
        assert (root / "veltair-heavy" / "cpus_list").read_text() == "6-7\n"
        assert removed == []
    assert removed == ["veltair-light", "veltair-heavy"]
    assert not list(root.glob("veltair-*"))


def test_partitions_are_given_back_though_the_run_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = removals(monkeypatch)
    with pytest.raises(ZeroDivisionError), parted_l3({"a": (0,)}, tree(tmp_path)):
        raise ZeroDivisionError
    assert removed == ["veltair-a"]


def test_a_group_that_cannot_be_written_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    root, removed = tree(tmp_path), removals(monkeypatch)
    monkeypatch.setattr(Path, "write_text", refuse)
    said = r"veltair-a cannot be set to cores 0 and ways 0xfffff .* as root"
    with pytest.raises(ResctrlError, match=said), parted_l3({"a": (0,)}, root):
        pass
    assert removed == ["veltair-a"]


@pytest.mark.parametrize(("partitions", "fewest", "parts"), [(3, 8, 16), (3, 1, 3)])
def test_more_partitions_than_parts_of_the_l3_are_refused(tmp_path: Path, partitions, fewest, parts) -> None:
    asked = {str(number): (number,) for number in range(partitions)}
    root = tree(tmp_path, fewest=fewest, parts=parts)
    said = "3 partitions are more than the L3 can be parted into: it has 20 ways"
    with pytest.raises(ResctrlError, match=said), parted_l3(asked, root):
        pass


@pytest.mark.parametrize(("mask", "schemata"), [("f0ff", ""), ("ff", "MB:0=100\n"), ("ways", "L3:0=ff\n")])
def test_a_tree_that_says_something_else_is_an_error(tmp_path: Path, mask: str, schemata: str) -> None:
    with pytest.raises(ResctrlError):
        cache_ways(tree(tmp_path, mask=mask, schemata=schemata))
