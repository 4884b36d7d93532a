"""What both protocols do about an upload: its file's name, and how a load ends."""

import re
from collections.abc import Sequence

from veltair.service.front.intake import Intake
from veltair.service.models.registry import BEING_BUILT, Entry
from veltair.service.tenancy.errors import ServiceError, Trouble, bad_request

# Such a name may a file of an upload have, and no other: names of clients never become paths.
_MODEL_FILE = re.compile(r"file:([0-9]+)/model\.onnx")
# How long a load waits for the builder: clients give up after a minute.
BUILD_WAIT_S = 50.0


def upload_version(names: Sequence[str]) -> str:
    """Return the version that the name of an upload's file states.

    Raises ServiceError for several files, or one of another name.
    """
    if len(names) != 1 or (found := _MODEL_FILE.fullmatch(names[0])) is None:
        raise bad_request("give one file, under the name `file:VERSION/model.onnx`")
    return found[1]


async def finish_load(intake: Intake, entry: Entry, wait_s: float = BUILD_WAIT_S) -> None:
    """Return once a model is served. Raises ServiceError if it cannot be, or is still being built."""
    entry = await intake.settled(entry, wait_s)
    if entry.state.is_served:
        return
    if entry.state in BEING_BUILT:
        raise ServiceError(
            Trouble.UNAVAILABLE,
            f"{entry.name} is {entry.state}, which takes longer; the index of the repository tells more",
            retry_after_s=wait_s,
        )
    raise bad_request(f"{entry.name} cannot be served: {entry.reason}")
