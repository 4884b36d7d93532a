from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.provenance import collect

NUMBERS = st.floats(allow_nan=False)
PROVENANCE = collect()


@given(st.lists(st.tuples(NUMBERS, st.sampled_from(["", "none", "a, b"])), min_size=1, max_size=30))
def test_a_table_reads_back_equal_to_the_last_bit(rows: list[tuple[float, str]]) -> None:
    table = pd.DataFrame(rows, columns=["qps", "answer"]).astype({"answer": "str"})
    with TemporaryDirectory() as folder:
        write_csv(Path(folder) / "table.csv", table, PROVENANCE)
        pd.testing.assert_frame_equal(read_csv(Path(folder) / "table.csv"), table, check_exact=True)


def test_empty_texts_of_a_csv_file_read_back_as_empty_texts(tmp_path: Path) -> None:
    table = pd.DataFrame({"policy": ["A", "B"], "invalid": ["", ""], "answer": ["1, or 2", ""]})
    write_csv(tmp_path / "table.csv", table, PROVENANCE)
    assert read_csv(tmp_path / "table.csv").to_dict("list") == table.to_dict("list")
