"""The one error of the front end, and how other libraries' words get into it."""

import re

# What ONNX Runtime puts before its messages, and where in its sources or in memory something happened.
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_PLACES = re.compile(
    r"(/\S+\.(?:cc|h|cpp):\d+ \S+ ?)|(\bContext: Bad node spec for )|(==> Context: )"
    r"|(onnxruntime::[^\n]*\) (?=[A-Z]))"
)


class ModelError(ValueError):
    """An ONNX model that cannot be served; the message names the file, the node and what to change."""


def one_line(error: BaseException) -> str:
    """Return an error's whole text on one line; the checkers name the node in a later line."""
    text = _PLACES.sub("", _PREFIX.sub("", str(error)))
    return " ".join(text.split()) or type(error).__name__
