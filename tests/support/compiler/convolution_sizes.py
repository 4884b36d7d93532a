"""Sizes of convolutions: some of known networks, and any that hypothesis thinks of."""

from math import ceil

from hypothesis import strategies as st

from veltair.compiler.recipes.sizes import Convolution

CHANNELS = (1, 3, 4, 8, 12, 16, 20, 24, 32, 40, 48)


def dense(
    size: int, channels: int, out_channels: int, kernel: int = 3, stride: int = 1, batch: int = 1
) -> Convolution:
    """Return a convolution of a square image, padded so that stride alone makes its output smaller."""
    out = ceil(size / stride)
    pad = (kernel - 1) // 2
    counts = (batch, size, size, channels, out, out, out_channels)
    return Convolution(*counts, pad, pad, (kernel, kernel), (stride, stride))


def depthwise(size: int, channels: int, kernel: int = 3, stride: int = 1) -> Convolution:
    """Return a depthwise convolution of a square image, padded likewise."""
    out, pad = ceil(size / stride), (kernel - 1) // 2
    counts = (1, size, size, channels, out, out, channels)
    return Convolution(*counts, pad, pad, (kernel, kernel), (stride, stride), is_depthwise=True)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """Draw the sizes of a convolution, of one pixel to a whole image, dense or depthwise, often 3 x 3."""
    is_plain = draw(st.booleans())
    kernel, stride, dilation = (
        (plain, plain) if is_plain else draw(st.tuples(st.integers(1, most), st.integers(1, most)))
        for plain, most in ((3, 7), (1, 3), (1, 2))
    )
    out = draw(st.tuples(st.integers(1, 230), st.integers(1, 230)))
    reach = [
        (count - 1) * step + (size - 1) * apart + 1
        for count, step, size, apart in zip(out, stride, kernel, dilation, strict=True)
    ]
    # So many of the rows and columns that it reads may be zeros before its data, and after.
    before, after = (
        [draw(st.integers(0, min(3, (size - 1) // 2))) for size in reach] for _ in ("before", "after")
    )
    height, width = (size - first - last for size, first, last in zip(reach, before, after, strict=True))
    channels, out_channels = (draw(st.sampled_from((*CHANNELS, 64, 120, 512, 1000))) for _ in range(2))
    is_depthwise = draw(st.booleans())
    counts = (draw(st.integers(1, 4)), height, width, channels, *out)
    return Convolution(
        *counts,
        channels if is_depthwise else out_channels,
        *before,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        is_depthwise=is_depthwise,
    )
