"""Figures as files: the same figure gives the same bytes, on every machine and in every process."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from veltair.evaluation.figures.style import style
from veltair.provenance import write_atomically

NO_DATES: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(figure: Figure, path_stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write the figure once per format, each file whole or not at all, and return the paths.

    The same figure gives the same bytes: no dates, and ids in SVG files from a fixed salt. Raises ValueError
    on another format than png, svg or pdf.
    """
    unknown = [form for form in formats if form not in NO_DATES]
    if unknown:
        raise ValueError(f"cannot save {path_stem.name} as {unknown}; choose from {', '.join(NO_DATES)}")
    files: dict[Path, bytes] = {}
    _settle(figure)
    for form in formats:
        content = io.BytesIO()
        with style():
            figure.savefig(content, format=form, metadata=NO_DATES[form])
        files[path_stem.with_name(f"{path_stem.name}.{form}")] = content.getvalue()
    write_atomically(files)
    return list(files)


def _settle(figure: Figure) -> None:
    """Lay a figure out for good: the layout's solver differs in its last bits from call to call.

    At the resolution at which it is saved, for letters are not as wide at another one.
    """
    with style():
        figure.set_dpi(mpl.rcParams["savefig.dpi"])
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        left, bottom, width, height = axis.get_position(original=True).bounds
        axis.set_position((round(left, 6), round(bottom, 6), round(width, 6), round(height, 6)))
