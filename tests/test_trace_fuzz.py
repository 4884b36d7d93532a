"""Any file as recorded arrivals: it is read, or it is refused with the file's name and what is wrong."""

import math
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.support.fuzz import INPUTS, ODD_TEXTS, cut_or_spoilt, fuzz
from veltair.config.trace_file import RecordedTrace, TraceError, read_trace

WHOLE = b"arrival_s,model\n0,large\n0.5,small\n1.25,small\n2e0,large\n7,small\n"
SERVED = ["small", "large"]
CELLS = st.sampled_from(
    [
        *(
            "0",
            "1",
            "2.5",
            "1e308",
            "1e-308",
            "5e-324",
            "1e999",
            "-0",
            "-1",
            "0x10",
            "1_0",
            "٣",
            "nan",
            "inf",
        ),
        *("small", "large", "vgg", "arrival_s", "model", '"', '"a', "a\nb", "\r", *ODD_TEXTS),
    ]
)


def take(content: bytes, folder: Path) -> None:
    path = folder / "trace.csv"
    path.write_bytes(content)
    try:
        trace = read_trace(path, "small", SERVED)
    except TraceError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert isinstance(trace, RecordedTrace)
        assert list(trace.arrivals_s) == sorted(trace.arrivals_s)
        assert trace.arrivals_s[0] >= 0 and trace.arrivals_s[-1] < trace.length_s < math.inf


@INPUTS
def test_a_spoilt_trace_is_read_or_refused(inputs: int, tmp_path: Path) -> None:
    fuzz(inputs, cut_or_spoilt(WHOLE), lambda content: take(content, tmp_path))


@INPUTS
def test_any_cells_are_read_or_refused(inputs: int, tmp_path: Path) -> None:
    rows = st.lists(st.lists(CELLS, min_size=1, max_size=3).map(",".join), max_size=6)
    headers = st.sampled_from(["arrival_s", "arrival_s,model", "model,arrival_s", "\ufeffarrival_s"]) | CELLS
    texts = st.tuples(headers, rows).map(lambda parts: "\n".join([parts[0], *parts[1]]))
    contents = texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=80)
    fuzz(inputs, contents, lambda content: take(content, tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"arrival_s\n\xff\n", "is no text in UTF-8"),
        (b"arrival_s\n0\n1e308\n", "the recording lasts 1e+308 s"),
        (b"arrival_s\n0\n5e-324\n", "s; give one of 1e-06 to 3e+09 s"),
        (b"arrival_s\n" + b"1" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_what_no_run_can_repeat_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "trace.csv").write_bytes(content)
    with pytest.raises(TraceError) as caught:
        read_trace(tmp_path / "trace.csv", "small", SERVED)
    assert said in str(caught.value) and "trace.csv" in str(caught.value)


def test_a_trace_that_begins_with_a_mark_of_its_encoding_is_read(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_bytes("\ufeffarrival_s\n0\n1\n".encode())
    assert read_trace(tmp_path / "trace.csv", "small", SERVED).arrivals_s == (0.0, 1.0)
