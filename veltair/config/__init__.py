"""The configuration of a run: its keys, how files become one, and what is refused before any work starts."""

from veltair.terminal import imported_packages

# `python -m veltair.config` imports this before its own module.
with imported_packages(as_program=True):
    from veltair.config.checks import check_environment
    from veltair.config.keys import Config
    from veltair.config.load import ConfigError, load, parse

__all__ = ["Config", "ConfigError", "check_environment", "load", "parse"]
