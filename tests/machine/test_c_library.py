"""C libraries by their headers: one declaration of each struct, checked against the compiler's."""

from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest

from veltair.machine.c_build import FLAGS, NativeBuildError
from veltair.machine.c_library import CLayoutError, CLibrary, load_library

HEADER = """
#ifndef POINT_H
#define POINT_H
#include <stdbool.h>
#include <stdint.h>

#define NAMES 3
enum { NAME_BYTES = 8, FOUND = -7 };
typedef enum { RED = 4, GREEN = 2 } colour_t;  // the numbers go their own way

typedef struct {
    int32_t first;
    double second;
    char name[NAME_BYTES];
    const double *values;
    uint16_t parts[NAMES];
} point_t;
typedef struct {
    uint8_t kind;
    point_t point;
    bool is_open;
} holder_t;
typedef struct hidden hidden_t;

double point_sum(const point_t *point, int32_t count);
int point_find(hidden_t *hidden, const char *text);
#endif
"""
SOURCE = """
#include "point.h"
double point_sum(const point_t *point, int32_t count)
{
    double sum = point->first + point->second;
    for (int32_t index = 0; index < count; index++)
        sum += point->values[index];
    return sum;
}
int point_find(hidden_t *hidden, const char *text) { return hidden ? text[0] : FOUND; }
"""


class Colour(StrEnum):
    GREEN = "green"
    RED = "red"


def load(folder: Path, header: str = HEADER, source: str = SOURCE) -> CLibrary:
    (folder / "point.h").write_text(header)
    (folder / "point.c").write_text(source)
    return load_library(
        folder / "point.c", [folder / "point.h"], folder / "build", (*FLAGS, "-shared", "-fPIC")
    )


@pytest.fixture
def library(tmp_path: Path) -> CLibrary:
    return load(tmp_path)


def test_structs_and_functions_are_those_of_the_header(library: CLibrary) -> None:
    values = np.array([1.0, 2.0, 4.0])
    point = library.ffi.new("point_t *", {"first": 8, "second": 16.0})
    point.values = library.pointer(values)
    assert library.functions.point_sum(point, 3) == 31.0
    assert library.functions.point_find(library.ffi.NULL, b"x") == library.functions.FOUND == -7


def test_a_function_may_keep_the_interpreters_lock(library: CLibrary) -> None:
    values = np.array([1.0, 2.0])
    point = library.ffi.new("point_t *", {"second": 0.5})
    point.values = library.pointer(values)
    brief = library.brief("point_sum")
    assert brief(library.address(point), 2) == 3.5
    assert library.brief("point_find")(None, b"x") == -7


def test_a_struct_is_a_dtype_of_record_arrays(library: CLibrary) -> None:
    points = np.zeros(2, library.dtype("point_t"))
    points[1] = (3, 0.25, b"one", 77, [1, 2, 3])
    read = library.ffi.from_buffer("point_t[]", points)
    assert (read[1].first, read[1].second, library.ffi.string(read[1].name)) == (3, 0.25, b"one")
    assert [read[1].parts[index] for index in range(3)] == [1, 2, 3]
    assert int(library.ffi.cast("uintptr_t", read[1].values)) == 77
    holders = library.dtype("holder_t")
    assert holders.itemsize == library.ffi.sizeof("holder_t")
    assert holders["point"] == library.dtype("point_t")
    assert holders["is_open"] == np.bool_


def test_the_members_of_an_enum_have_the_numbers_of_the_header_whatever_their_order(
    library: CLibrary,
) -> None:
    assert library.numbers(Colour, "colour_t") == {Colour.RED: 4, Colour.GREEN: 2}


@pytest.mark.parametrize("header", ["RED = 4", "RED = 4, GREEN = 2, BLUE = 9"])
def test_an_enum_with_other_members_than_the_header_is_refused(tmp_path: Path, header: str) -> None:
    library = load(tmp_path, HEADER.replace("RED = 4, GREEN = 2", header))
    with pytest.raises(CLayoutError, match=r"colour_t .*(GREEN|BLUE)"):
        library.numbers(Colour, "colour_t")


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        (("double second", "_Alignas(16) double second"), "point_t"),
        (("int32_t first;", "int64_t first;"), "point_t"),
        (("RED = 4", "RED = 5"), "RED"),
    ],
)
def test_a_struct_that_the_compiler_lays_out_otherwise_is_found_at_load(
    tmp_path: Path, planted: tuple[str, str], named: str
) -> None:
    before, after = planted
    line = next(line for line in HEADER.splitlines() if before in line)
    told_apart = f"#ifdef VELTAIR_CFFI\n{line}\n#else\n{line.replace(before, after)}\n#endif"
    with pytest.raises(CLayoutError, match=rf"point\.h.*{named}"):
        load(tmp_path, HEADER.replace(line, told_apart))


def test_a_function_that_is_declared_but_not_there_is_found_at_load(tmp_path: Path) -> None:
    header = HEADER.replace("int point_find", "void point_lost(void);\nint point_find")
    with pytest.raises(CLayoutError, match="point_lost"):
        load(tmp_path, header)


def test_a_header_that_is_no_plain_c_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NativeBuildError, match=r"point\.h"):
        load(tmp_path, HEADER.replace("double second;", "double _Complexe second;"))
