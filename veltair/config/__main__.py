"""`python -m veltair.config`: check configuration files, or rewrite what is made from the keys."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from veltair.terminal import imported_packages, print_utf8

with imported_packages():
    import yaml

    from veltair.config.document import page_text, schema_text
    from veltair.config.load import ConfigError, load
    from veltair.config.vary import check_variations

SCHEMA = Path("workflow/schemas/config.schema.json")
PAGE = Path("workflow/config/README.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 2 for a configuration that is refused."""
    print_utf8()
    parser = argparse.ArgumentParser(
        prog="python -m veltair.config",
        description="Check configuration files, the later over the earlier, and print all their values.",
        epilog=f"Every key is described in {PAGE}.",
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="YAML files to check")
    parser.add_argument(
        "--write-schema",
        action="store_true",
        help=f"write {SCHEMA} and {PAGE} anew, from the repository's top",
    )
    options = parser.parse_args(arguments)
    try:
        if options.write_schema:
            SCHEMA.write_text(schema_text(), encoding="utf-8")
            PAGE.write_text(page_text(), encoding="utf-8")
            return 0
        config = load(options.files)
        check_variations(config)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
