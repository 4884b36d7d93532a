"""Where a result comes from, and writing it so that it is there with its provenance, or not at all."""

import errno
import hashlib
import io
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

PACKAGES = (
    "apache-tvm",
    "apache-tvm-ffi",
    "mlcommons-loadgen",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "pandas",
    "pyarrow",
    "scipy",
    "snakemake",
    "xgboost-cpu",
)
SUFFIX = ".provenance.json"
NO_COMMIT = "not a git checkout"
SOURCES = Path(__file__).parents[1]
CODE = ("veltair", "baselines", "models", "workflow", "requirements.txt")  # what results depend on
CPU_INFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
FILES_NAMED = 3  # in a message, of each value
_CODE: ContextVar[str] = ContextVar("code", default="")


class ProvenanceError(ValueError):
    """A result's origin is missing, does not belong to it, or differs from another's."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a result depends on.

    `dirty` tells that code differs from the commit; `changes` is then a digest of the differences. `cores`
    are the core ids this process may use, `caches` the sizes as the kernel writes them, by level and kind.
    `config` and the values of `inputs` (by path) are SHA-256 digests in hexadecimal. `details` is for what
    only one kind of result has. `result` is the digest of the file it was written beside. `code` is a digest
    of the code that the step of the workflow runs through, without policies; '' outside of it. `settings` are
    the keys of `config`, by path.
    """

    commit: str
    dirty: bool
    changes: str
    cpu: str
    cores: tuple[int, ...]
    caches: Mapping[str, str]
    kernel: str
    python: str
    packages: Mapping[str, str]
    config: str
    inputs: Mapping[str, str]
    seed: int | None
    time_utc: str
    command: str
    details: Mapping[str, Any]
    result: str = ""
    code: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def collect(
    config: Any = None,
    inputs: Sequence[Path] = (),
    seed: int | None = None,
    command: str | None = None,
    **details: Any,
) -> Provenance:
    """Return the provenance of a result that is about to be written.

    `config` is the part of the configuration that the result depends on, as plain values, and `inputs` are
    the files it was made from. `command` is this process's command line unless given.
    """
    commit, changes = _commit(SOURCES)
    return Provenance(
        commit=commit,
        dirty=bool(changes),
        changes=changes,
        cpu=_cpu(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        caches=_caches(),
        kernel=platform.release(),
        python=platform.python_version(),
        packages=_packages(),
        config=fingerprint(config),
        inputs={_input_name(path): file_digest(path) for path in sorted(map(Path, inputs))},
        seed=seed,
        time_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command() if command is None else command,
        details=details,
        code=_CODE.get(),
        settings=_settings(config),
    )


@contextmanager
def made_by(code: str) -> Iterator[None]:
    """Within the context, results are of a step whose code has this digest."""
    token = _CODE.set(code)
    try:
        yield
    finally:
        _CODE.reset(token)


def check_same_origin(results: Mapping[Path, Provenance], *, measured: bool = False) -> None:
    """Raise ProvenanceError unless results of one step are of one code and of one configuration.

    Measured ones must be of one machine too; simulated ones are the same on each. Of the configuration those
    keys count that two of them read. The message names each field that differs, with its values and files.
    """
    _refuse(_differing({path: _origin(one, measured) for path, one in results.items()}))


def check_same_settings(results: Mapping[Path, Provenance]) -> None:
    """Raise ProvenanceError, as `check_same_origin`, for keys of the configuration alone."""
    _refuse(_differing({path: one.settings for path, one in results.items()}))


def _origin(one: Provenance, measured: bool) -> dict[str, Any]:
    """Return by name what must be equal: of a result made outside the workflow the commit says its code."""
    names = ["code"] if one.code else ["commit", "changes"]
    names += ["cpu", "cores", "caches"] if measured else []
    code = {"code": "not noted"} if not one.code else {}
    return {**one.settings, **code, **{name: getattr(one, name) for name in names}}


def _differing(values: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """Return a line for each field that two files have with different values."""
    lines = []
    for name in sorted({name for known in values.values() for name in known}):
        files: dict[str, list[Path]] = {}
        for path, known in values.items():
            if name in known:
                files.setdefault(json.dumps(known[name], sort_keys=True), []).append(path)
        if len(files) > 1:
            told = (f"{text} of {_some(paths)}" for text, paths in files.items())
            lines.append(f"{name} is {', but '.join(told)}")
    return lines


def _some(paths: Sequence[Path]) -> str:
    rest = len(paths) - FILES_NAMED
    return ", ".join(map(str, paths[:FILES_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _refuse(lines: Sequence[str]) -> None:
    if lines:
        raise ProvenanceError(
            "\n  ".join(["results of unlike origin do not go into one table:", *lines])
            + "\nmake the odd ones anew: delete them, and run again"
        )


def check_made_here(recorded: Provenance) -> None:
    """Raise ProvenanceError unless a result was measured on a machine like this one."""
    here = {"cpu": _cpu(), "cores": tuple(sorted(os.sched_getaffinity(0))), "caches": _caches()}
    unlike = [
        f"{name} was {getattr(recorded, name)!r} and is {value!r} here"
        for name, value in here.items()
        if getattr(recorded, name) != value
    ]
    if unlike:
        raise ProvenanceError(
            f"the cost tables are another machine's: {'; '.join(unlike)}; measure them here (delete them, or "
            "`snakemake --cores all --forcerun profile`), or only simulate (`measured.enabled: false`)"
        )


def fingerprint(value: Any) -> str:
    """Return the SHA-256 digest of plain values; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(config: Any) -> dict[str, Any]:
    """Return the keys of a configuration by path: of each group its keys, such as one policy as a whole."""
    groups = config if isinstance(config, Mapping) else {}
    found: dict[str, Any] = {}
    for name, group in groups.items():
        inner = group if isinstance(group, Mapping) else None
        found |= {name: group} if inner is None else {f"{name}.{key}": value for key, value in inner.items()}
    return found


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any, provenance: Provenance) -> None:
    """Write plain values as JSON, with the provenance beside; floats read back equal."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_result(path, text.encode(), provenance)


def write_parquet(path: Path, frame: pd.DataFrame, provenance: Provenance) -> None:
    """Write a table as Parquet, without its index, with the provenance beside."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_result(path, buffer.getvalue(), provenance)


def write_result(path: Path, content: bytes, provenance: Provenance) -> None:
    """Write a file and its provenance: both or neither."""
    beside = {**provenance.as_dict(), "result": hashlib.sha256(content).hexdigest()}
    text = json.dumps(beside, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically({provenance_path(path): text.encode(), path: content})


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write files under temporary names and rename them, so that no reader ever sees half of one.

    Raises OSError, leaving what was there before, if one of them cannot be written, as on a full disk.
    """
    staged = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, temporary in staged.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_through(temporary, contents[path])
        for path, temporary in staged.items():
            temporary.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        size = sum(map(len, contents.values()))
        raise OSError(
            error.errno,
            f"the disk is full: {size} bytes for {', '.join(map(str, contents))} do not fit; "
            "free space and run again, finished steps are kept",
        ) from error
    finally:
        for temporary in staged.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def provenance_path(path: Path) -> Path:
    """Return where the provenance of a result lies."""
    return path.with_name(path.name + SUFFIX)


def read_provenance(path: Path) -> Provenance:
    """Return the provenance of a result file.

    Raises ProvenanceError if there is none, or if the file is not the one it was written for.
    """
    beside = provenance_path(path)
    try:
        provenance = provenance_of(json.loads(beside.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ProvenanceError(
            f"{beside} is missing, which says where {path} comes from; produce it anew"
        ) from None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ProvenanceError(f"{beside} does not hold a provenance ({error}); produce {path} anew") from None
    if file_digest(path) != provenance.result:
        raise ProvenanceError(f"{path} is not the file that {beside} was written for; produce it anew")
    return provenance


def provenance_of(values: Any) -> Provenance:
    """Return the provenance that `as_dict` gave. Raises ValueError, TypeError or LookupError else."""
    Provenance(**values)  # which refuses other names, as the check of the types does not
    return _checked_types().validate_python(values)


@cache
def _checked_types() -> TypeAdapter[Provenance]:
    return TypeAdapter(Provenance)


def _input_name(path: Path) -> str:
    """Return a path into this checkout from its top, so that results of two checkouts name it alike."""
    return str(path.relative_to(SOURCES) if path.is_relative_to(SOURCES) else path)


def _command() -> str:
    """Return this process's command line; its program without the folder, which differs from user to user."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _commit(folder: Path) -> tuple[str, str]:
    """Return the commit and a digest of the code that differs from it: '' where none does.

    A copy without a history of its own has none, though the folder around it may be a checkout.
    """
    head, top = _git(folder, "rev-parse", "HEAD"), _git(folder, "rev-parse", "--show-toplevel")
    if head is None or top is None or Path(top).resolve() != folder.resolve():
        return NO_COMMIT, ""
    differences = _git(folder, "diff", "HEAD", "--", *CODE) or ""
    untracked = (_git(folder, "ls-files", "--others", "--exclude-standard", "--", *CODE) or "").splitlines()
    if not differences and not untracked:
        return head, ""
    files = {name: file_digest(folder / name) for name in untracked if (folder / name).is_file()}
    return head, fingerprint([differences, files])


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            errors="replace",
            env=_without_git(os.environ),
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _without_git(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables by which a hook of git names another checkout."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("GIT_") or name.startswith("GIT_CONFIG")
    }


def _cpu() -> str:
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _caches() -> dict[str, str]:
    found = {}
    for folder in sorted(CACHES.glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size")
            )
        except OSError:  # as on some virtual machines
            continue
        found[f"L{level} {kind}"] = size
    return found


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
