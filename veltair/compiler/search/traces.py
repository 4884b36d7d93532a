"""Traces of schedules written short: a structure's distinct instructions once, its variables by their age."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# What stands for a variable made `n` variables ago; TVM's own strings never start so.
AGE = "@"


class TraceTable:
    """The distinct instructions of a structure's traces, numbered as they came.

    Candidates of one sketch share nearly all their instructions once a variable is named by how long ago it
    was made instead of by its number, so a trace is little more than a list of numbers and its decisions.
    """

    def __init__(self) -> None:
        self._instructions: list[Any] = []
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._instructions)

    def extend(self, instructions: Sequence[Any]) -> None:
        """Add instructions as `since` gave them."""
        for instruction in instructions:
            self._number(instruction)

    def since(self, length: int) -> list[Any]:
        """Return the instructions that were added after the first `length`."""
        return self._instructions[length:]

    def shorten(self, trace: Any) -> Any:
        """Return a trace in TVM's JSON as the numbers of its instructions and its decisions; adds new ones.

        A trace that would not come back as it was stays as it is, and so does a recipe, which is a mapping.
        """
        if isinstance(trace, Mapping):
            return {"trace": trace}
        instructions, decisions = trace
        by_age = _name_by_age(instructions)
        if _name_by_number(by_age) != instructions:
            return {"trace": trace}
        return {"instructions": [self._number(one) for one in by_age], "decisions": decisions}

    def restore(self, short: Any) -> Any:
        """Return the trace that was shortened. Raises LookupError for an instruction that is not there."""
        if "trace" in short:
            return short["trace"]
        instructions = [self._instructions[number] for number in short["instructions"]]
        return [_name_by_number(instructions), short["decisions"]]

    def _number(self, instruction: Any) -> int:
        key = json.dumps(instruction, separators=(",", ":"))
        if key not in self._numbers:
            self._numbers[key] = len(self._instructions)
            self._instructions.append(instruction)
        return self._numbers[key]


def plain(value: Any) -> Any:
    """Return TVM's containers, strings and numbers as Python's, as JSON needs them."""
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if hasattr(value, "value"):
        return plain(value.value)
    return [plain(item) for item in value]


def _name_by_age(instructions: Sequence[Any]) -> list[Any]:
    made: dict[str, int] = {}

    def age(name: str) -> str:
        return f"{AGE}{len(made) - made[name]}" if name in made else name

    by_age = []
    for kind, inputs, attributes, outputs in instructions:
        aged = _rename(inputs, age)
        kinds = "".join(name[:1] for name in outputs)
        for name in outputs:
            made[name] = len(made)
        by_age.append([kind, aged, attributes, kinds])
    return by_age


def _name_by_number(by_age: Sequence[Any]) -> list[Any]:
    names: list[str] = []

    def name(age: str) -> str:
        years = age[len(AGE) :]
        if not age.startswith(AGE) or not years.isdecimal() or not 1 <= int(years) <= len(names):
            return age
        return names[-int(years)]

    instructions = []
    for kind, inputs, attributes, kinds in by_age:
        named = _rename(inputs, name)
        outputs = [f"{letter}{len(names) + index}" for index, letter in enumerate(kinds)]
        names += outputs
        instructions.append([kind, named, attributes, outputs])
    return instructions


def _rename(value: Any, name: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_rename(item, name) for item in value]
    return name(value) if isinstance(value, str) else value
