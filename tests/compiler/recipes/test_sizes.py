import pytest
from hypothesis import given

from tests.support.compiler.convolution_sizes import convolutions, dense
from veltair.compiler.recipes.sizes import Convolution

# 9 x 11 pixels; kernels of 3 x 5, 2 rows and 1 column apart: 5 x 5; (9 - 5) / 2 + 1 = 3 rows, 11 - 5 + 1 = 7.
VALID = Convolution(1, 9, 11, 4, 3, 7, 8, 0, 0, (3, 5), (2, 1), (2, 1))


def test_what_a_convolution_reads_is_counted_by_stride_and_dilation() -> None:
    assert VALID.reach == (9, 11)
    assert dense(56, 64, 64).reach == (58, 58)
    # 112 rows of every second one, 7 high: (112 - 1) x 2 + 7.
    assert dense(224, 3, 64, kernel=7, stride=2).reach == (229, 229)


@pytest.mark.parametrize(
    ("sizes", "padded"),
    [
        (VALID, False),
        (dense(56, 64, 64), True),
        (dense(56, 64, 64, kernel=1), False),
        (Convolution(1, 8, 8, 4, 8, 8, 4, kernel=(2, 1)), True),  # a row of zeros below, none above
        (Convolution(1, 8, 8, 4, 8, 8, 4, kernel=(1, 2)), True),
        (Convolution(1, 8, 8, 4, 7, 8, 4, 1, 0, (3, 1)), True),  # a row above, none below
        (dense(8, 4, 4, kernel=1, stride=2), False),  # the last row and column are not read
    ],
)
def test_a_convolution_is_padded_that_reads_more_than_its_data(sizes: Convolution, padded: bool) -> None:
    assert sizes.is_padded == padded


@pytest.mark.parametrize(
    ("sizes", "plain"),
    [
        (dense(8, 4, 4), True),
        (dense(8, 4, 4, kernel=5), False),
        (dense(8, 4, 4, stride=2), False),
        (Convolution(1, 8, 8, 4, 6, 8, 4, kernel=(3, 1)), False),
        (Convolution(1, 8, 8, 4, 4, 6, 4, kernel=(3, 3), dilation=(2, 1)), False),
        (Convolution(1, 8, 8, 4, 6, 3, 4, kernel=(3, 3), stride=(1, 2)), False),
    ],
)
def test_a_kernel_is_plain_of_its_size_without_stride_and_dilation(sizes: Convolution, plain: bool) -> None:
    assert sizes.is_plain(3) == plain


def test_channels_fill_registers_if_both_kinds_do() -> None:
    assert dense(8, 8, 24).fills(8)
    assert not dense(8, 4, 24).fills(8)
    assert not dense(8, 24, 4).fills(8)


@given(sizes=convolutions())
def test_a_convolution_without_padding_reads_no_more_than_its_data(sizes: Convolution) -> None:
    rows, columns = sizes.reach
    assert sizes.is_padded or (rows <= sizes.height and columns <= sizes.width)
