"""Keep what TVM prints off the terminal: it says in many lines what the error then says in one."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path


@contextmanager
def quietly() -> Iterator[None]:
    """Silence both streams, of C++ too, and Python's warnings."""
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        Path(os.devnull).open("w") as nowhere,
    ):
        warnings.simplefilter("ignore")
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
