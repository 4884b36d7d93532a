"""The sizes of convolutions and of products of matrices. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Convolution:
    """The sizes of a convolution in NHWC; `top` and `left` are rows and columns of zeros before its data.

    `kernel`, `stride` and `dilation` are of rows and columns. Either every output channel reads all channels,
    or, where `is_depthwise`, each output channel reads the channel of its own number.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    top: int = 0
    left: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    is_depthwise: bool = False

    def is_plain(self, kernel: int) -> bool:
        """Tell whether its kernel has this height and width, and stride and dilation are 1."""
        return self.kernel == (kernel, kernel) and self.stride == self.dilation == (1, 1)

    def fills(self, lanes: int) -> bool:
        """Tell whether its channels and output channels fill registers of so many lanes."""
        return self.channels % lanes == self.out_channels % lanes == 0

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns that it reads of its padded data."""
        rows, columns = (
            (count - 1) * stride + (kernel - 1) * dilation + 1
            for count, stride, kernel, dilation in zip(
                (self.out_height, self.out_width), self.stride, self.kernel, self.dilation, strict=True
            )
        )
        return rows, columns

    @property
    def is_padded(self) -> bool:
        """Whether it reads anything beside its data."""
        rows, columns = self.reach
        return bool(self.top or self.left) or rows > self.height or columns > self.width


@dataclass(frozen=True, slots=True)
class Matrices:
    """How many pairs of matrices are multiplied, and their sizes: rows x depth by depth x columns."""

    pairs: int
    rows: int
    columns: int
    depth: int
