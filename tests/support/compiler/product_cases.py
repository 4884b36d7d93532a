"""Products of matrices as hypothesis draws them: sizes, small layers, and plans that are legal but odd."""

from math import ceil

from hypothesis import strategies as st

from tests.support.compiler.product_layers import ENDINGS, FORMS, HEADS, ProductCase
from veltair.compiler.recipes.product_plan import ProductPlan
from veltair.compiler.recipes.sizes import Matrices

COLUMNS = (4, 8, 12, 16, 20, 24, 32, 48, 64, 72)
MOST_SUMS = 32


def matrices() -> st.SearchStrategy[Matrices]:
    """Draw sizes, of a vector to those of large networks, with columns that fill registers and others."""
    depths = st.sampled_from((1, 3, 64, 384, 1000, 1024, 2053, 4096)) | st.integers(1, 5000)
    columns = st.sampled_from((*COLUMNS, 384, 1000, 1024, 4096)) | st.integers(1, 100)
    return st.builds(Matrices, st.integers(1, 16), st.integers(1, 400), columns, depths)


def product_cases() -> st.SearchStrategy[ProductCase]:
    """Draw small layers: fewer rows than a tile and more than some, columns that registers just fill."""
    return st.builds(
        ProductCase,
        rows=st.integers(4, 12) | st.integers(4, 40),
        depth=st.integers(1, 70),
        columns=st.sampled_from(COLUMNS),
        pairs=st.integers(1, 3),
        form=st.sampled_from(FORMS),
        ending=st.sampled_from(ENDINGS),
        seed=st.integers(0, 2**16),
    )


@st.composite
def odd_plans(draw: st.DrawFn, case: ProductCase) -> ProductPlan:
    """Draw any plan that fits a case: those that are enumerated are few of them."""
    lanes = draw(st.sampled_from([count for count in (4, 8, 16) if case.columns % count == 0]))
    vectors = draw(st.integers(1, 6))
    rows = draw(st.integers(1, min(MOST_SUMS // vectors, case.rows + 2)))
    block = draw(st.integers(1, max(1, ceil(case.rows / rows)))) * rows
    panel = vectors * lanes
    columns = draw(st.integers(1, ceil(case.columns / panel))) * panel
    steps = case.depth * (HEADS if case.form == "heads" else 1)
    can_wait = case.form != "heads"
    depth = draw(
        st.sampled_from([part for part in range(1, steps + 1) if steps % part == 0 and can_wait] or [steps])
    )
    return ProductPlan(block, columns, rows, vectors, lanes, depth)
