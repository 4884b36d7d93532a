"""C sources of the package, compiled on the machine that runs them."""

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

COMPILER = "gcc"
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-Wall", "-Wextra", "-pthread")

# Of a library that gives Python's results to the last bit: products and sums are not fused. Traps and errno,
# which nobody reads, are dropped.
EXACT_LIBRARY = (*FLAGS, "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-shared", "-fPIC")


_NAME_A_CACHE = "set XDG_CACHE_HOME to a folder that compiled code can be kept in"


def flags_for(cpu: str) -> tuple[str, ...]:
    """Return the flags of a program for a CPU of a name as in `build.cpu`: "auto" is this one."""
    return tuple(flag.replace("native", cpu) if cpu != "auto" else flag for flag in FLAGS)


class NativeBuildError(RuntimeError):
    """A C source could not be compiled; the message says why and what to do."""


def default_build_dir() -> Path:
    """Return the user's cache folder for compiled sources (XDG base directory specification).

    Raises NativeBuildError where neither XDG_CACHE_HOME nor HOME names a place.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():
        return Path(cache) / "veltair"
    home = Path(os.environ.get("HOME", "") or _home_of_user())
    if os.access(home, os.F_OK) and not home.is_dir():
        raise NativeBuildError(f"HOME is {home}, which is no folder; {_NAME_A_CACHE}")
    return home / ".cache" / "veltair"


def _home_of_user() -> str:
    try:
        return str(Path.home())
    except RuntimeError as error:
        raise NativeBuildError(
            f"HOME is not set, and this user has no home folder; {_NAME_A_CACHE}"
        ) from error


def compile_c(
    source: Path, build_dir: Path, flags: Sequence[str] = FLAGS, *, beside: Sequence[Path] = ()
) -> Path:
    """Return the path of a C source compiled into `build_dir`, compiling it only if it is not there yet.

    `beside` are further sources of the same library or program, which has the first one's name.

    The file's name holds a hash of the sources with what they include beside the system's headers, the flags,
    the compiler's version and the processor that `-march=native` stands for, so a folder shared by several
    machines is safe. Give `-shared` and `-fPIC` among the flags for a library. Raises NativeBuildError if gcc
    is missing, refuses the source, or cannot write.
    """
    sources = [source, *beside]
    code = [path.read_bytes() for one in sources for path in _with_included(one)]
    compiler = _identify_compiler(flags)
    key = hashlib.sha256(b"\0".join([*code, *(f.encode() for f in flags), compiler])).hexdigest()[:16]
    target = build_dir / f"{source.stem}-{key}{'.so' if '-shared' in flags else ''}"
    if target.exists():
        return target
    partial = _make_partial(build_dir, source)
    try:
        _gcc(
            [*flags, *map(str, sources), "-o", str(partial), "-lm"], f"compile {source.name} into {build_dir}"
        )
        partial.replace(target)
    except OSError as error:
        raise NativeBuildError(
            f"cannot write {target}: {error.strerror}; free space there or give another build folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def preprocess(code: str, flags: Sequence[str], purpose: str) -> str:
    """Return C code without comments and macros. Raises NativeBuildError, which names `purpose`."""
    return _gcc([*flags, "-E", "-P", "-x", "c", "-"], purpose, code.encode()).decode()


def _with_included(source: Path) -> list[Path]:
    """Return a source and the files of ours that it includes, as the compiler names them."""
    rule = _gcc(["-MM", "-MT", "it", str(source)], f"read what {source.name} includes")
    _, _, names = rule.decode().replace("\\\n", " ").partition(":")
    return [Path(name.replace("\\ ", " ")) for name in re.split(r"(?<!\\)\s+", names.strip())]


def _identify_compiler(flags: Sequence[str]) -> bytes:
    """Return the compiler's version and what the flags mean to it on this processor."""
    machine_flags = [flag for flag in flags if flag.startswith("-m")]
    version = _gcc(["--version"], "read the compiler's version")
    return version + _gcc([*machine_flags, "-Q", "--help=target"], "resolve the processor's flags")


def _make_partial(build_dir: Path, source: Path) -> Path:
    """Make an empty file of a new name, so that builds side by side never see half of each other's."""
    try:
        build_dir.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{source.stem}-", suffix=".partial", dir=build_dir)
    except OSError as error:
        raise NativeBuildError(
            f"cannot write into build folder {build_dir}: {error.strerror}; free space there or give another"
        ) from error
    os.close(handle)
    if os.statvfs(build_dir).f_flag & os.ST_NOEXEC:
        Path(name).unlink()
        raise NativeBuildError(
            f"the build folder {build_dir} is on a file system mounted noexec, from which nothing can "
            f"run; {_NAME_A_CACHE}, or give another folder of results"
        )
    return Path(name)


def _gcc(arguments: Sequence[str], purpose: str, code: bytes = b"") -> bytes:
    """Return what gcc prints, given code to read. `purpose` is named in the error if it fails."""
    try:
        done = subprocess.run([COMPILER, *arguments], input=code, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise NativeBuildError(
            f"{COMPILER} was not found on PATH, cannot {purpose}; install it "
            "(Debian and Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc; conda: gcc)"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        hint = "; free space there or give another build folder" if "No space left" in said else ""
        raise NativeBuildError(
            f"{COMPILER} failed to {purpose} (exit status {done.returncode}): {said}{hint}"
        )
    return done.stdout
