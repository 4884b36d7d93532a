import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.service.engine.link import Tensor
from veltair.service.engine.slots import (
    ALIGNMENT,
    GIVEN_BACK_BYTES,
    PooledSlot,
    SlotMemory,
    SlotPool,
    layout_of,
)

SMALL = (
    (Tensor("image", "float32", (3, 5)),),
    (Tensor("output_0", "float32", (2,)), Tensor("b", "int64", (3,))),
)
LARGE = (Tensor("image", "uint8", (GIVEN_BACK_BYTES + 5,)),), (Tensor("output_0", "float32", (2,)),)
CANARY = b"\xa5"


def pool_of(tensors: tuple[tuple[Tensor, ...], tuple[Tensor, ...]], slots: int = 2) -> SlotPool:
    return SlotPool("net", SlotMemory(layout_of(*tensors), slots), first=7)


def taken(pool: SlotPool) -> PooledSlot:
    slot = pool.take()
    assert slot is not None
    return slot


@given(
    st.lists(st.integers(1, 9000), min_size=1, max_size=4),
    st.lists(st.integers(1, 9000), min_size=1, max_size=4),
)
def test_tensors_lie_apart_at_cache_lines_and_slots_at_pages(inputs: list[int], outputs: list[int]) -> None:
    layout = layout_of(*(tuple(Tensor("t", "uint8", (n,)) for n in part) for part in (inputs, outputs)))
    spans = (*layout.inputs, *layout.outputs)
    assert [nbytes for _, nbytes in spans] == inputs + outputs
    assert all(offset % ALIGNMENT == 0 for offset, _ in spans)
    ends = [0, *(offset + nbytes for offset, nbytes in spans)]
    assert all(offset >= end for (offset, _), end in zip(spans, ends, strict=False))
    assert layout.slot_bytes >= ends[-1]
    assert layout.slot_bytes % os.sysconf("SC_PAGESIZE") == 0


@pytest.mark.parametrize("tensors", [SMALL, LARGE], ids=["overwritten", "given back"])
def test_nothing_of_a_request_is_seen_by_the_next_one(
    tensors: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
) -> None:
    pool = pool_of(tensors, slots=1)
    engines = SlotMemory(pool.memory.layout, 1, os.dup(pool.memory.file))  # as the other process has it
    for _ in range(2):
        slot = taken(pool)
        assert not any(any(view) for view in (*slot.inputs, *slot.outputs))
        for view in (*slot.inputs, *engines.inputs(0)):
            view[:] = CANARY * view.nbytes
        for offset, nbytes in pool.memory.layout.outputs:
            engines._mapped[offset : offset + nbytes] = CANARY * nbytes
        assert all(bytes(view) == CANARY * view.nbytes for view in slot.outputs)
        slot.release()
    engines.close()


def test_outputs_cannot_be_written_and_nothing_is_read_after_the_release() -> None:
    slot = taken(pool_of(SMALL))
    outputs = slot.outputs
    with pytest.raises(TypeError):
        outputs[0][0] = 1
    slot.release()
    with pytest.raises(ValueError, match="released"):
        bytes(outputs[0])


def test_a_slot_goes_back_only_once_the_engine_is_done_with_it() -> None:
    pool = pool_of(SMALL, slots=1)
    slot = taken(pool)
    slot.under_way = True
    slot.inputs[0][:] = CANARY * slot.inputs[0].nbytes
    slot.release()
    slot.release()
    assert pool.take() is None
    slot.end()
    again = taken(pool)
    assert not any(again.inputs[0])
    assert pool.take() is None
    slot.release()
    assert pool.take() is None


def test_slots_have_numbers_and_addresses_of_their_own() -> None:
    pool = pool_of(SMALL)
    slots = [taken(pool), taken(pool)]
    assert pool.take() is None
    addresses = {one.number: one for one in pool.memory.addresses(7)}
    assert {slot.number for slot in slots} == addresses.keys() == {7, 8}
    places = [place for one in addresses.values() for place in (*one.inputs, *one.outputs)]
    assert len(set(places)) == len(places)


def test_the_memory_of_another_size_is_refused_and_cannot_be_cut_short() -> None:
    memory = SlotMemory(layout_of(*SMALL), 2)
    with pytest.raises(ValueError, match="3 slots"):
        SlotMemory(memory.layout, 3, os.dup(memory.file))
    with pytest.raises(PermissionError):
        os.ftruncate(memory.file, 0)
