"""What commands print, whatever the locale of the terminal, and the numbers that they are given."""

import io
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite


def print_utf8() -> None:
    """Let this process print in UTF-8: a locale that lacks a letter would end it there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


@contextmanager
def imported_packages(as_program: bool = False) -> Iterator[None]:
    """End the process with one line if what is imported meanwhile cannot be, as another Python's packages.

    With `as_program` only where it is imported because of `python -m`; else its error is raised.
    """
    try:
        yield
    except Exception as error:  # a foreign package may raise anything when it is imported
        if as_program and sys.argv[0] != "-m":
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        sys.exit(f"error: {sys.executable} cannot import what it needs ({reason}); {import_advice()}")


def import_advice() -> str:
    """Return what to do where packages cannot be imported."""
    if foreign := os.environ.get("PYTHONPATH"):
        return f"PYTHONPATH is {foreign}, from which packages of another Python may come: unset it"
    return "run make"


def count(text: str) -> int:
    """Return a whole number of 1 or more, for an option of a command; else the option is refused by name."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) >= 1):
        raise ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def positive(text: str) -> float:
    """Return a finite number above 0, for an option of a command; else the option is refused by name."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and isfinite(value)):
        raise ArgumentTypeError(f"{text} is not a number above 0")
    return value
