"""The timelines of measured runs as files to look at."""

from pathlib import Path

from veltair.evaluation.experiment.timeline_data import TIMELINE, read_recorded
from veltair.evaluation.figures.timeline_files import write_timeline
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder


def draw_timelines(folder: Path, output: Path, order: PolicyOrder = AS_THEY_COME) -> None:
    """Write the trace and the picture of each run below a folder, named after the path of the run there.

    A run in which no block ran has no picture.
    """
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob(f"**/{TIMELINE}")):
        recorded = read_recorded(path)
        name = "-".join(path.parent.relative_to(folder).parts)
        write_timeline(recorded.timeline, recorded.run, output / name, order=order)
