from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.c_build import EXACT_LIBRARY
from veltair.machine.c_library import CLibrary, KeptArrays, load_library
from veltair.machine.topology import placement
from veltair.machine.topology.topology import Machine
from veltair.serving.engine.live_tables import core_layout

SOURCE = Path(placement.__file__).with_name("placement.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> CLibrary:
    folder = tmp_path_factory.mktemp("placement")
    return load_library(SOURCE, [SOURCE.with_suffix(".h")], folder, EXACT_LIBRARY)


def machine_of(groups: list[list[int]]) -> Machine:
    return Machine("toy", 1, tuple(map(tuple, groups)), 2**19, 2**24, 1e11, 1e11, validated=False)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Machine, int, list[int], list[int]]:
    """A machine whose ids come in any order, cores wanted, free ones, and those of the block that asks."""
    count, size = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    ids = draw(st.permutations(range(count * size)))
    machine = machine_of([sorted(ids[size * group : size * (group + 1)]) for group in range(count)])
    free = draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    held = [core for core in draw(st.lists(st.sampled_from(ids), unique=True)) if core not in free]
    return machine, draw(st.integers(1, len(free))), free, held


def placed_in_c(
    library: CLibrary, name: str, machine: Machine, cores: int, free: list[int], held: list[int]
) -> tuple[int, ...]:
    indices = {core: index for index, core in enumerate(machine.core_ids)}
    arrays = KeptArrays(library)
    layout: Any = library.ffi.new("core_layout_t *", core_layout(machine, name, arrays))
    is_free = np.zeros(machine.cores, np.uint8)
    is_free[[indices[core] for core in free]] = 1
    own, chosen = np.array([indices[core] for core in held], np.uint16), np.zeros(machine.cores, np.uint16)
    pointers = (
        library.ffi.cast(kind, array.ctypes.data)
        for kind, array in (("uint8_t *", is_free), ("uint16_t *", own))
    )
    found = library.functions.place_cores(
        layout, cores, *pointers, len(own), library.ffi.cast("uint16_t *", chosen.ctypes.data)
    )
    return tuple(machine.core_ids[index] for index in chosen[:found])


@pytest.mark.parametrize("name", placement.PLACEMENTS)
def test_cores_are_placed_in_c_as_in_python(library: CLibrary, name: str) -> None:
    @given(requests())
    def holds(request: tuple[Machine, int, list[int], list[int]]) -> None:
        machine, cores, free, held = request
        expected = placement.PLACEMENTS[name](cores, free, machine, held)
        assert placed_in_c(library, name, machine, cores, free, held) == expected

    holds()


def test_where_too_few_cores_are_free_fewer_are_found(library: CLibrary) -> None:
    machine = machine_of([[0, 1], [2, 3]])
    for name in placement.PLACEMENTS:
        assert len(placed_in_c(library, name, machine, 3, [1, 2], [])) == 2
