"""Command line of serving."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from veltair.terminal import imported_packages, print_utf8

with imported_packages():
    from veltair.serving.engine.run_log import replay_run_log


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 if the replay decides otherwise, or 2 if the log cannot be replayed."""
    print_utf8()
    parser = argparse.ArgumentParser(prog="python -m veltair.serving", description="Runs on real cores.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("replay", help="decide anew what a live run's log says was decided")
    command.add_argument("log", type=Path, help="the log, a file that the run wrote")
    given = parser.parse_args(arguments)
    try:
        difference = replay_run_log(given.log)
    except (LookupError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(difference or "every decision is the same")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
