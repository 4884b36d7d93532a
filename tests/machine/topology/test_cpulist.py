import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.topology.cpulist import format_cpu_list, parse_cpu_list


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("0", (0,)),
        ("0-3", (0, 1, 2, 3)),
        ("8,0-1\n", (0, 1, 8)),
        ("0-1,64-65", (0, 1, 64, 65)),
        ("2,2", (2,)),
    ],
)
def test_a_list_of_ranges_and_numbers_is_read_in_ascending_order(text: str, ids: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == ids


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "0x1", "1.5", "²"])
def test_anything_else_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 0-3,8"):
        parse_cpu_list(text)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_what_is_formatted_is_read_back(ids: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(ids)) == tuple(sorted(ids))


def test_neighbours_are_joined_into_ranges() -> None:
    assert format_cpu_list([9, 0, 1, 2, 8, 5]) == "0-2,5,8-9"


def test_ids_that_no_machine_has_are_refused_and_not_listed() -> None:
    with pytest.raises(ValueError, match="has ids above 65536"):
        parse_cpu_list("0-99999999999")
