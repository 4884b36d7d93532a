"""Small layers of one convolution, as hypothesis draws them: the places where kernels go wrong."""

from typing import Literal

from hypothesis import strategies as st

from tests.support.compiler.convolution_layers import ENDINGS, Case
from tests.support.compiler.convolution_sizes import CHANNELS

Sort = Literal["any", "plain", "depthwise"]
# Of every kind: odd and even, fewer than a tile, and more than some.
MOST = 17
KERNELS = (1, 2, 3, 5)


@st.composite
def cases(draw: st.DrawFn, sort: Sort) -> Case:
    """Draw a layer: of any convolution, of a plain 3 x 3 that fills registers, or of a depthwise one."""
    is_plain = sort == "plain"
    kernel = (3, 3) if is_plain else _pair(draw, st.sampled_from(KERNELS))
    stride, dilation = ((1, 1) if is_plain else _pair(draw, st.integers(1, 2)) for _ in range(2))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    least = [
        max(1, (size - 1) * apart + 1 - pads[axis] - pads[axis + 2])
        for axis, (size, apart) in enumerate(zip(kernel, dilation, strict=True))
    ]
    rows, columns = (draw(st.integers(1, 7) | st.integers(1, MOST)) for _ in range(2))
    widths = st.sampled_from([count for count in CHANNELS if count % 4 == 0] if is_plain else CHANNELS)
    channels = draw(widths)
    out_channels = channels if sort == "depthwise" else draw(widths)
    # A slope of a single channel is fused into a layer of its own.
    endings = [ending for ending in ENDINGS if ending != "prelu" or out_channels > 1]
    return Case(
        (max(rows, least[0]), max(columns, least[1])),
        channels,
        out_channels,
        kernel,
        pads,
        stride,
        dilation,
        channels if sort == "depthwise" else 1,
        batch=draw(st.integers(1, 2)),
        ending=draw(st.sampled_from(endings)),
        seed=draw(st.integers(0, 2**16)),
    )


def _pair(draw: st.DrawFn, numbers: st.SearchStrategy[int]) -> tuple[int, int]:
    return draw(numbers), draw(numbers)
