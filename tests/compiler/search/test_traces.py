import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.search.traces import TraceTable, plain

# A split of the only loop of block "sum", in TVM's JSON.
TRACE = [
    [
        ["GetSBlock", [], ["sum", "main"], ["b0"]],
        ["GetLoops", ["b0"], [], ["l1"]],
        ["SamplePerfectTile", ["l1"], [2, 64], ["v2", "v3"]],
        ["Split", ["l1", "v2", "v3"], [1, 0], ["l4", "l5"]],
        ["Annotate", ["b0", '"SR"'], ["tiling"], []],
    ],
    [[2, [8, 8]]],
]


def renumbered(shift: int) -> Any:
    """Return the trace after `shift` other blocks were looked up, so that its variables have other names."""
    text = json.dumps(TRACE[0])
    for number in reversed(range(6)):
        for letter in "blv":
            text = text.replace(f'"{letter}{number}"', f'"{letter}{number + shift}"')
    before = [["GetSBlock", [], ["root", "main"], [f"b{index}"]] for index in range(shift)]
    return [[*before, *json.loads(text)], [[2 + shift, [4, 16]]]]


def test_a_trace_comes_back_as_it_was() -> None:
    table = TraceTable()
    assert table.restore(table.shorten(TRACE)) == TRACE


def test_an_instruction_is_stored_once_whatever_its_variables_numbers_are() -> None:
    table = TraceTable()
    table.shorten(TRACE)
    length = len(table)
    short = table.shorten(renumbered(3))
    assert (len(table), table.restore(short)) == (length + 1, renumbered(3))


def test_a_table_of_the_same_instructions_restores_what_another_shortened() -> None:
    writer, reader = TraceTable(), TraceTable()
    short = writer.shorten(TRACE)
    reader.extend(writer.since(0))
    assert reader.restore(short) == TRACE


def test_a_trace_with_strange_names_is_kept_whole() -> None:
    strange = json.loads(json.dumps(TRACE).replace('"l5"', '"inner"'))
    assert TraceTable().shorten(strange) == {"trace": strange}


names = st.sampled_from(["b0", "l1", "v2", "l3", "@1", "@2", "_", "x"])
inputs = st.lists(st.one_of(names, st.integers(0, 9), st.none(), st.lists(names, max_size=2)), max_size=3)
instructions = st.lists(
    st.tuples(st.sampled_from(["Split", "Fuse"]), inputs, st.just([1]), st.lists(names, max_size=2)).map(
        list
    ),
    max_size=6,
)


@given(instructions)
def test_any_trace_comes_back_as_it_was(made: list[Any]) -> None:
    table = TraceTable()
    trace = [made, [[0, 3]]]
    assert table.restore(json.loads(json.dumps(table.shorten(trace)))) == trace


class Boxed:
    """Stands for a number of TVM's."""

    def __init__(self, value: float) -> None:
        self.value = value


def test_containers_and_numbers_of_tvm_become_pythons() -> None:
    assert plain((Boxed(0.25), [Boxed(2), "text", None], True)) == [0.25, [2, "text", None], True]
