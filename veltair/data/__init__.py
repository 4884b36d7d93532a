"""What is shipped with the package, not generated: machines, candidates, cost tables, claims, the study."""

from importlib.resources import files
from pathlib import Path


def shipped(name: str) -> Path:
    """Return the path of a shipped file or folder."""
    return Path(str(files(__name__))) / name
