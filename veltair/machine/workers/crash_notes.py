"""What the workers of gang.c were at when their process ended, for the process that waited for it."""

from pathlib import Path
from struct import Struct

NAME_BYTES = 48  # of a model's name, as in gang.c

_NOTE = Struct(f"<QII{NAME_BYTES}s")  # query, layer, is running, model


def read_notes(path: Path) -> list[str]:
    """Return what the workers were at when their process ended, one line for each that ran a block.

    `path` is what a `NativeGang` was given as `notes`. A signal handler could not tell more, and would itself
    run in a process that is broken: the file is mapped memory, which outlives it.
    """
    found = []
    for index, (query, layer, is_running, name) in enumerate(_NOTE.iter_unpack(path.read_bytes())):
        if is_running:
            model = name.split(b"\0")[0].decode(errors="replace")
            found.append(f"worker {index}: layer {layer} of {model}, query {query}")
    return found
