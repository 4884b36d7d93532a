"""What commands print, whatever the locale of the terminal, and the numbers that they are given."""

import io
import sys
from argparse import ArgumentTypeError
from math import isfinite


def print_utf8() -> None:
    """Let this process print in UTF-8: a locale that lacks a letter would end it there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


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
