"""What is shipped, not generated: machines, candidates, cost tables, costs of blocks, claims, the study."""

from importlib.resources import files
from pathlib import Path


def shipped(name: str) -> Path:
    """Return the path of a shipped file or folder."""
    return Path(str(files(__name__))) / name
