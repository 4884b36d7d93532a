"""The timeline of a measured run as a file, from which it is drawn later."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from veltair.evaluation.metrics.records import Run
from veltair.provenance import write_atomically
from veltair.serving.loop.timeline import Timeline

TIMELINE = "timeline.json"  # in the folder of each run


class RecordedTimeline(BaseModel):
    """A timeline, and which run it is of."""

    # A described machine may have unlimited speeds.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    run: Run
    timeline: Timeline


def write_recorded(timeline: Timeline, run: Run, folder: Path) -> None:
    """Write a timeline into the folder of its run."""
    text = RecordedTimeline(run=run, timeline=timeline).model_dump_json()
    write_atomically({folder / TIMELINE: text.encode()})


def read_recorded(path: Path) -> RecordedTimeline:
    """Return a timeline equal to the one that was written. Raises ValueError for a file of another kind."""
    return RecordedTimeline.model_validate_json(path.read_bytes())
