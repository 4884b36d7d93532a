"""Markdown tables of texts."""

from collections.abc import Iterable, Sequence

import pandas as pd


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], numbers: bool = False
) -> list[str]:
    """Return the lines of a table; the first column is left, the others too unless they are `numbers`.

    A bar in a cell is escaped.
    """
    first, *texts = ([str(cell).replace("|", "\\|") for cell in row] for row in (header, *rows))
    align = ["left", *["right" if numbers else "left"] * (len(first) - 1)]
    table = pd.DataFrame(texts, columns=first)
    # By tabulate; texts that look like numbers are kept as they are.
    return table.to_markdown(index=False, colalign=align, disable_numparse=True).splitlines()
