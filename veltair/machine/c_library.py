"""C libraries by their headers: each struct, enum and function is declared once, in C.

A header that is read here has declarations only: structs, enums, prototypes, and macros that are constants.
Where C needs a word that cffi cannot read (`_Atomic`), `#ifdef VELTAIR_CFFI` gives it a plain one. Whether
both mean the same bytes is checked at load: a table of what gcc makes of each struct is part of the library.
"""

import ctypes
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cffi import FFI, CDefError, VerificationError
from numpy.typing import NDArray

from veltair.machine.c_build import NativeBuildError, compile_c, preprocess

# What gcc does not define, so that a header can give cffi a plain word for one that it does not know.
MACRO = "VELTAIR_CFFI"
_TABLE = "veltair_layout"
_CTYPES: dict[str, Any] = {
    "double": ctypes.c_double,
    "float": ctypes.c_float,
    "_Bool": ctypes.c_bool,
    "char": ctypes.c_char,
}

Member = TypeVar("Member", bound=Enum)


class CLayoutError(RuntimeError):
    """Python and the compiler read a header differently; the message names what and where."""


@dataclass(frozen=True, slots=True)
class CLibrary:
    """A loaded library: `ffi` has its types, `functions` its functions and constants.

    `headers` names the files it was declared in, for messages.
    """

    ffi: FFI
    functions: Any
    headers: str
    _brief: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def pointer(self, array: NDArray[Any] | None) -> Any:
        """Return the address of an array's data for a pointer of any type; the caller keeps the array."""
        return self.ffi.NULL if array is None else self.ffi.cast("void *", array.ctypes.data)

    def address(self, pointer: Any) -> int:
        """Return a pointer as a number."""
        return int(self.ffi.cast("uintptr_t", pointer))

    def brief(self, name: str) -> Callable[..., Any]:
        """Return a function that keeps the interpreter's lock: to give it up takes longer than a brief call.

        Pointers are given as numbers (`address`), bytes or None.
        """
        if name not in self._brief:
            kind = self.ffi.typeof(getattr(self.functions, name))
            prototype = ctypes.PYFUNCTYPE(self._ctype(kind.result), *map(self._ctype, kind.args))
            self._brief[name] = prototype(self.address(getattr(self.functions, name)))
        return self._brief[name]

    def dtype(self, struct: str) -> np.dtype[Any]:
        """Return the layout of a struct for arrays of records. Pointers are numbers of their size."""
        return self._dtype(self.ffi.typeof(struct))

    def numbers(self, members: type[Member], c_enum: str, prefix: str = "") -> dict[Member, int]:
        """Return the number in C of each member of a Python enum: that of the constant of the same name.

        Constants of the C enum begin with `prefix`. Raises CLayoutError unless both have the same names.
        """
        in_c: dict[str, int] = self.ffi.typeof(c_enum).relements
        in_python = {prefix + member.name: member for member in members}
        if in_c.keys() != in_python.keys():
            odd = ", ".join(sorted(in_c.keys() ^ in_python.keys()))
            raise CLayoutError(
                f"{c_enum} of {self.headers} and {members.__name__} differ in {odd}; give both the same names"
            )
        return {member: in_c[name] for name, member in in_python.items()}

    def _dtype(self, kind: Any) -> np.dtype[Any]:
        if kind.kind == "struct":
            fields = [(name, self._dtype(part.type), part.offset) for name, part in kind.fields]
            names, formats, offsets = zip(*fields, strict=True)
            layout: Any = {"names": names, "formats": formats, "offsets": offsets}
            layout["itemsize"] = self.ffi.sizeof(kind)
            struct: np.dtype[Any] = np.dtype(layout)
            return struct
        if kind.kind == "array":
            if kind.item.cname == "char":
                return np.dtype(f"S{kind.length}")
            return np.dtype((self._dtype(kind.item), (kind.length,)))
        plain: np.dtype[Any] = np.dtype(self._ctype(kind))
        return plain

    def _ctype(self, kind: Any) -> Any:
        if kind.kind == "void":
            return None
        if kind.kind in ("pointer", "function"):
            return ctypes.c_void_p
        if kind.kind == "primitive" and kind.cname in _CTYPES:
            return _CTYPES[kind.cname]
        if kind.kind not in ("primitive", "enum"):
            raise TypeError(f"{kind.cname} of {self.headers} has no counterpart; pass it by its address")
        sign = "" if int(self.ffi.cast(kind, -1)) < 0 else "u"
        return getattr(ctypes, f"c_{sign}int{8 * self.ffi.sizeof(kind)}")


class KeptArrays:
    """Arrays that C holds addresses of, kept as long as C uses them."""

    def __init__(self, library: CLibrary) -> None:
        self.library = library
        self._kept: list[Any] = []

    def pointer(self, values: Any, dtype: Any = np.float64) -> Any:
        """Return a pointer to the values as a contiguous array of a type."""
        array = np.ascontiguousarray(values, dtype=dtype)
        self._kept.append(array)
        return self.library.pointer(array)

    def structs(self, name: str, values: Sequence[Mapping[str, Any]]) -> Any:
        """Return an array of structs of a type."""
        array = self.library.ffi.new(f"{name}[]", list(values))
        self._kept.append(array)
        return array


def load_library(
    source: Path,
    headers: Sequence[Path],
    build_dir: Path,
    flags: Sequence[str],
    *,
    beside: Sequence[Path] = (),
) -> CLibrary:
    """Compile a library into `build_dir` if it is not there yet, and load it by its headers.

    `headers` come in the order in which they need each other; `flags` and `beside` are those of `compile_c`.
    Raises NativeBuildError if gcc is missing or refuses, or a header cannot be read; CLayoutError if a
    struct, an enum or a function is not in the library as it is declared.
    """
    names = ", ".join(header.name for header in headers)
    ffi = FFI()
    try:
        ffi.cdef(_declarations(headers))
    except (CDefError, VerificationError) as error:
        raise NativeBuildError(f"cannot read {names}: {error}; declare it in plain C") from error
    facts = list(_facts(ffi))
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / f"{source.stem}_layout.c"
        table.write_text(_table_source(headers, facts), encoding="utf-8")
        path = compile_c(source, build_dir, flags, beside=[*beside, table])
    _check_layout(facts, path, names)
    functions: Any = ffi.dlopen(str(path))
    for name in dir(functions):
        try:
            getattr(functions, name)
        except AttributeError as error:
            raise CLayoutError(f"{names} declares {name}, which {source.name} has not: {error}") from error
    return CLibrary(ffi, functions, names)


def _declarations(headers: Sequence[Path]) -> str:
    """Return what headers declare, without comments, macros and what they include."""
    lines = [line for header in headers for line in header.read_text(encoding="utf-8").splitlines()]
    plain = "\n".join(line for line in lines if not line.lstrip().startswith("#include"))
    return preprocess(plain, [f"-D{MACRO}"], f"read {', '.join(header.name for header in headers)}")


def _facts(ffi: Any) -> Iterator[tuple[str, str, int]]:
    """Yield what cffi makes of the declarations: in words, as a C expression, and its value."""
    typedefs, structs, unions = ffi.list_types()
    named = {name: ffi.typeof(name) for name in typedefs}
    tags = {f"struct {name}" for name in structs} | {f"union {name}" for name in unions}
    named |= {tag: ffi.typeof(tag) for tag in tags}
    for name, kind in named.items():
        if kind.kind == "enum":
            for constant, value in kind.relements.items():
                yield f"the value of {constant}", constant, int(value)
        if kind.kind not in ("struct", "union") or kind.fields is None:
            continue
        yield f"the size of {name}", f"sizeof({name})", ffi.sizeof(kind)
        for part, place in kind.fields:
            yield f"the offset of {part} in {name}", f"offsetof({name}, {part})", place.offset
            yield f"the size of {part} in {name}", f"sizeof((({name} *)0)->{part})", ffi.sizeof(place.type)


def _table_source(headers: Sequence[Path], facts: Sequence[tuple[str, str, int]]) -> str:
    includes = "".join(f'#include "{header}"\n' for header in headers)
    values = "".join(f"    (int64_t){expression},\n" for _, expression, _ in facts)
    return (
        f"// What the compiler makes of these headers: generated, see c_library.py.\n#include <stddef.h>\n"
        f"#include <stdint.h>\n{includes}\nconst int64_t {_TABLE}[] = {{\n{values}    0}};\n"
    )


def _check_layout(facts: Sequence[tuple[str, str, int]], path: Path, headers: str) -> None:
    compiled = (ctypes.c_int64 * (len(facts) + 1)).in_dll(ctypes.CDLL(str(path)), _TABLE)
    wrong = [
        f"{words} is {value} to Python, {there} to the compiler"
        for (words, _, value), there in zip(facts, compiled, strict=False)
        if value != there
    ]
    if wrong:
        raise CLayoutError(
            f"{headers}: {'; '.join(wrong)}; declare it so that cffi and gcc read the same (without "
            "_Alignas, attributes and bit fields)"
        )
