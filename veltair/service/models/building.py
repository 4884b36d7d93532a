"""Builds one uploaded model in a process of its own, which the builder starts.

It reads one order in JSON from its standard input, bounds itself, and says on its standard output what it is
at, a line each: a state, then "done", or the reason why the model is refused. All else that is printed goes
to the log that the order names.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from veltair.service.keys.builder_keys import BuilderKeys
from veltair.service.models.registry import State
from veltair.service.models.sandbox import confine

# Letters of a reason, which goes to the tenant.
LONGEST = 500


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """What to build: the file of a model, the folder to work in, this machine's description, and bounds."""

    model: str
    folder: str
    machine: str
    log: str
    keys: Mapping[str, Any]

    def written(self) -> bytes:
        """Return it as the line that the process reads."""
        return json.dumps(asdict(self)).encode() + b"\n"


class Messages:
    """The way to the builder, of which nothing that is printed is part."""

    def __init__(self, log: str) -> None:
        """Take the standard output for itself, and let all that is printed go to the log."""
        self._way = os.fdopen(os.dup(1), "w", encoding="utf-8")
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in (1, 2):
            os.dup2(handle, number)
        os.close(handle)

    def say(self, kind: str, text: str) -> None:
        """Send a line."""
        self._way.write(json.dumps({kind: text}) + "\n")
        self._way.flush()


def main() -> int:
    """Build as ordered; return 0 if the model is built, 1 if it is refused or could not be."""
    order = BuildOrder(**json.loads(sys.stdin.buffer.readline()))
    keys = BuilderKeys.model_validate_json(json.dumps(order.keys))
    messages = Messages(order.log)
    print("without network" if confine(keys) else "the system lets this process keep the network", flush=True)
    # Imports of the compiler take seconds and memory, which count.
    from veltair.compiler.frontend.model_error import ModelError  # noqa: PLC0415
    from veltair.service.models.build_steps import build_artifact  # noqa: PLC0415

    model, folder, machine = Path(order.model), Path(order.folder), Path(order.machine)
    try:
        build_artifact(model, folder, machine, keys, lambda state: messages.say("state", state))
    except ModelError as error:
        messages.say("refused", readable(str(error)))
        return 1
    except MemoryError:
        messages.say("refused", "building it takes more memory than builder.memory_mb allows")
        return 1
    messages.say("done", State.READY)
    return 0


def readable(text: str) -> str:
    """Return a reason as it can be shown: one line, not long, of letters that can be seen."""
    line = " ".join(text.split())
    seen = "".join(one if one.isprintable() else "?" for one in line)
    return seen if len(seen) <= LONGEST else f"{seen[:LONGEST]}…"


if __name__ == "__main__":
    sys.exit(main())
