"""Rivals' environments: a virtual environment for each, with the packages that its list names."""

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from veltair.config.remote_keys import Rival
from veltair.data import shipped

RIVALS: tuple[str, ...] = get_args(Rival)
# The protocol's own client, which tests of servers use; it needs other versions of what we need.
CLIENT = "tritonclient"
INSTALLABLE = (*RIVALS, CLIENT)
LIST = "requirements.txt"


def install_rivals(names: Sequence[str], folder: Path) -> list[str]:
    """Make the environments of some rivals or the client, of all rivals if none is named; return those made.

    Packages come from wherever pip of this machine is set up to look. A line says why one was left out.
    Raises ValueError for a name that is no rival's, before any work.
    """
    if unknown := [name for name in names if name not in INSTALLABLE]:
        raise ValueError(f"{unknown[0]} is no rival; give one of {', '.join(INSTALLABLE)}")
    return [name for name in names or RIVALS if _is_made(name, folder / name)]


def python_of(environment: Path) -> Path:
    """Return the Python of an environment."""
    return environment / "bin" / "python"


def _is_made(name: str, environment: Path) -> bool:
    wanted = shipped("rivals") / name / LIST
    done = environment / LIST  # a copy of what was installed, once all of it was
    if done.exists() and done.read_bytes() == wanted.read_bytes():
        print(f"{name} is installed already", flush=True)
        return True
    print(f"{name}: installing into {environment}", flush=True)
    try:
        venv.create(environment, clear=True, with_pip=True)
        command = [
            str(python_of(environment)),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "-r",
            str(wanted),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        said = (str(error.stderr or "").strip().splitlines() or [str(error)])[-1]
        print(f"{name} is left out: {said}", file=sys.stderr, flush=True)
        return False
    except OSError as error:
        print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
        return False
    done.write_bytes(wanted.read_bytes())
    return True
