import pytest

from veltair.compiler.select.core_counts import doubling


@pytest.mark.parametrize(
    ("cores", "unit", "counts"),
    [
        (1, 1, (1,)),
        (2, 1, (1, 2)),
        (6, 1, (1, 2, 4, 6)),
        (8, 1, (1, 2, 4, 8)),
        (64, 8, (8, 16, 32, 64)),
        (24, 8, (8, 16, 24)),
    ],
)
def test_a_machine_is_judged_at_doubling_core_counts_and_on_all(
    cores: int, unit: int, counts: tuple[int, ...]
) -> None:
    assert doubling(cores, unit) == counts


@pytest.mark.parametrize(("cores", "unit"), [(0, 1), (4, 8), (4, 0)])
def test_a_core_unit_that_no_machine_has_is_refused(cores: int, unit: int) -> None:
    with pytest.raises(ValueError, match="core unit"):
        doubling(cores, unit)
