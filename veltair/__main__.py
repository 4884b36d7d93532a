"""`python -m veltair`: what is done with the project as a whole; the runs themselves are Snakemake's."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from veltair.new_policy import NewPolicyError, class_name, write_policy

NEXT = """
next:
  python -m pytest {test}
  python -m veltair.evaluation timeline --config workflow/config/smoke.yaml {config} --policy {policy}
  make CONFIG="workflow/config/config.yaml {config}"
docs/add-a-policy.md leads on from here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 if what was asked for cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m veltair",
        description="Beginnings. Runs are started with make; `make help` lists its targets.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("new-policy", help="write a working policy, its test and its configuration")
    command.add_argument("name", metavar="NAME", help="name of its file, such as my_policy")
    served = commands.add_parser("serve", help="answer requests for inference over HTTP, until SIGTERM")
    served.add_argument("--config", metavar="FILE", type=Path, default=Path("service.yaml"))
    given = parser.parse_args(arguments)
    if given.command == "serve":
        # Nothing else here needs numpy.
        from veltair.service.serve import main as serve  # noqa: PLC0415

        return serve(given.config)
    try:
        policy, test, config = write_policy(given.name, Path())
    except NewPolicyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(policy, test, config, sep="\n")
    print(NEXT.format(test=test, config=config, policy=class_name(given.name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
