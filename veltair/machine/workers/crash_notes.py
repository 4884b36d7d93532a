"""Crash notes: which layer each worker was running, read by the parent after a crash."""

from pathlib import Path

import numpy as np

# crash_note_t of pool_types.h, in the file's layout: `NativePool` checks that both are the same.
CRASH_NOTE = np.dtype([("query", "<u8"), ("layer", "<u4"), ("is_running", "<u4"), ("name", "S48")])


def read_notes(path: Path) -> list[str]:
    """Return what the workers were running when their process ended, one line for each that ran a block.

    `path` is what a `NativePool` was given as `notes`. A signal handler could not say more, and would itself
    run in a broken process: the file is mapped memory, which outlives it.
    """
    notes = np.frombuffer(path.read_bytes(), CRASH_NOTE)
    return [
        f"worker {index}: layer {note['layer']} of {note['name'].decode(errors='replace')}, "
        f"query {note['query']}"
        for index, note in enumerate(notes)
        if note["is_running"]
    ]
