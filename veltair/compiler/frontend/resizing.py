"""Resize and Upsample: to what TVM computes alike, or else to gathers and products with constant weights.

TVM takes the ratio of sizes for the scale, resizes the last two of four axes only, and knows no antialiasing.
Every other resizing is, axis by axis, a sum of a few elements with constant weights.
Source: ONNX's definition of Resize and its reference implementation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from veltair.compiler.frontend.graph import Rewriter, attributes, has, node_name, shapes
from veltair.compiler.frontend.model_error import ModelError

# With more elements than this in a sum it becomes a product with a matrix.
MOST_GATHERED = 2
TVM_COORDINATES = {"half_pixel", "asymmetric", "align_corners"}


@dataclass(frozen=True, slots=True)
class _Resizing:
    """A node as numbers: the sizes before and after, the scales, the region, and how values are found."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    scales: tuple[float, ...]
    region: tuple[float, ...]
    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude: bool
    extrapolated: float
    antialias: bool

    @property
    def axes(self) -> list[int]:
        """The axes that change, or that a region crops."""
        cropped = self.coordinates == "tf_crop_and_resize"
        return [
            axis
            for axis, (old, new) in enumerate(zip(self.before, self.after, strict=True))
            if old != new or (cropped and self._region(axis) != (0.0, 1.0)) or self.scales[axis] != 1.0
        ]

    def _region(self, axis: int) -> tuple[float, float]:
        rank = len(self.before)
        return (self.region[axis], self.region[axis + rank]) if self.region else (0.0, 1.0)

    def sources(self, axis: int) -> NDArray[np.float32]:
        """Return the place in the input of each output element of an axis.

        In float32, as ONNX Runtime has it: which of two elements is the nearest may hang on its rounding.
        """
        old, new, scale = self.before[axis], self.after[axis], self.scales[axis]
        places = np.arange(new, dtype=np.float32)
        first, last = self._region(axis)
        # The exact length is scale x old, of which new is what is left after rounding.
        spread = (1 - new / (scale * old)) * old / 2
        centred = (places + 0.5) / scale - 0.5
        known = {
            "half_pixel": centred,
            "half_pixel_symmetric": spread + centred,
            "pytorch_half_pixel": centred if new > 1 else np.zeros(new, np.float32),
            "align_corners": places * (old - 1) / max(1, new - 1),
            "asymmetric": places / scale,
            "tf_half_pixel_for_nn": (places + 0.5) / scale,
            "tf_crop_and_resize": first * (old - 1) + places * (last - first) * (old - 1) / max(1, new - 1)
            if new > 1
            else np.full(1, 0.5 * (first + last) * (old - 1), np.float32),
        }
        if self.coordinates not in known:
            raise ModelError(f"coordinate_transformation_mode {self.coordinates} is not known")
        return known[self.coordinates].astype(np.float32)

    def weights(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return what each output element of an axis sums, and with which weights: both (new, terms)."""
        sources = self.sources(axis)
        if self.mode == "nearest":
            nearest = np.clip(_nearest(sources, self.nearest), 0, self.before[axis] - 1)
            return nearest.astype(np.int64)[:, None], np.ones((len(nearest), 1), np.float32)
        kernel, reach = (_cubic(self.cubic), 2.0) if self.mode == "cubic" else (_linear, 1.0)
        scale = min(1.0, self.scales[axis]) if self.antialias else 1.0
        first = np.floor(sources).astype(np.int64) - int(np.ceil(reach / scale)) + 1
        places = first[:, None] + np.arange(int(2 * np.ceil(reach / scale)))[None, :]
        weights = kernel(np.abs(sources[:, None] - places) * scale)
        inside = (places >= 0) & (places < self.before[axis])
        # What lies outside counts as the last element inside, unless it shall be left out.
        if self.exclude:
            weights = np.where(inside, weights, 0.0)
        if self.exclude or self.antialias:
            weights = weights / weights.sum(axis=1, keepdims=True)
        return np.clip(places, 0, self.before[axis] - 1), weights.astype(np.float32)


def resizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each Resize and Upsample whose scales and sizes are constant by what is computed right.

    Raises ModelError for those whose sizes the input decides.
    """
    if not has(model, "Resize", "Upsample"):
        return model
    known = shapes(model)
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        if node.op_type not in ("Resize", "Upsample"):
            rewriter.keep(node)
            continue
        resizing = _read(node, rewriter, known)
        if not resizing.axes:
            rewriter.emit("Identity", [node.input[0]], node.output[0])
        elif _is_exact_in_tvm(resizing):
            _emit_plain(rewriter, node, resizing)
        else:
            _emit_sums(rewriter, node, resizing)
    return rewriter.result()


def _read(node: onnx.NodeProto, rewriter: Rewriter, known: dict[str, tuple[int, ...]]) -> _Resizing:
    given = attributes(node)
    where = f"node {node_name(node)} ({node.op_type})"
    if node.input[0] not in known:
        raise ModelError(f"{where} has an input of unknown shape; export the model with fixed shapes")
    before = known[node.input[0]]
    # Upsample, and Resize of opset 10, have the scales second and no region.
    inputs = [*node.input, "", "", ""]
    if node.op_type == "Upsample" or len(node.input) == 2:
        inputs = [node.input[0], "", inputs[1], ""]
    region, scales, sizes = (_values(rewriter, name, where) for name in inputs[1:4])
    if scales is None and "scales" in given:
        scales = np.array(given["scales"])
    axes = [int(axis) % len(before) for axis in given.get("axes") or range(len(before))]
    factors, after = [1.0] * len(before), list(before)
    if sizes is not None and sizes.size:
        wanted = _kept_aspect([int(one) for one in sizes], [before[axis] for axis in axes], given)
        for axis, size, factor in zip(axes, *wanted, strict=True):
            after[axis], factors[axis] = size, factor
    elif scales is not None and scales.size:
        for axis, scale in zip(axes, scales, strict=True):
            factors[axis], after[axis] = (
                float(scale),
                int(np.floor(np.float32(before[axis]) * np.float32(scale))),
            )
    else:
        raise ModelError(f"{where} has neither scales nor sizes; export it with constant ones")
    whole: tuple[float, ...] = ()
    if region is not None and region.size:
        bounds = [0.0] * len(before) + [1.0] * len(before)
        for place, axis in enumerate(axes):
            bounds[axis], bounds[len(before) + axis] = float(region[place]), float(region[place + len(axes)])
        whole = tuple(bounds)
    old = node.op_type == "Upsample" or len(node.input) == 2
    return _Resizing(
        before,
        tuple(after),
        tuple(factors),
        whole,
        given.get("mode", "nearest"),
        "asymmetric" if old else given.get("coordinate_transformation_mode", "half_pixel"),
        "floor" if old else given.get("nearest_mode", "round_prefer_floor"),
        given.get("cubic_coeff_a", -0.75),
        bool(given.get("exclude_outside", 0)),
        given.get("extrapolation_value", 0.0),
        bool(given.get("antialias", 0)),
    )


def _values(rewriter: Rewriter, name: str, where: str) -> NDArray[Any] | None:
    if not name:
        return None
    array = rewriter.values(name)
    if array is None:
        raise ModelError(f"{where} takes its sizes from the input; export it with constant scales")
    return array


def _kept_aspect(
    sizes: Sequence[int], before: Sequence[int], given: dict[str, Any]
) -> tuple[list[int], list[float]]:
    """Return the sizes that a policy of the aspect ratio leaves, and the scales."""
    factors = [size / old for size, old in zip(sizes, before, strict=True)]
    policy = given.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return list(sizes), factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [int(np.floor(old * factor + 0.5)) for old in before], [factor] * len(before)


def _is_exact_in_tvm(resizing: _Resizing) -> bool:
    """Tell whether TVM's kernel, which fuses and takes any layout, computes the same."""
    doubled = all(
        new == scale * old
        for old, new, scale in zip(resizing.before, resizing.after, resizing.scales, strict=True)
    )
    nearest_in_tvm = resizing.coordinates == "asymmetric" and resizing.nearest == "floor"
    return (
        len(resizing.before) == 4
        and set(resizing.axes) <= {2, 3}
        and doubled
        and not (resizing.antialias or resizing.exclude)
        and (
            (resizing.mode == "nearest" and nearest_in_tvm and _are_whole(resizing.scales))
            or (resizing.mode in ("linear", "cubic") and resizing.coordinates in TVM_COORDINATES)
        )
    )


def _are_whole(scales: Sequence[float]) -> bool:
    return all(scale == int(scale) for scale in scales)


def _emit_plain(rewriter: Rewriter, node: onnx.NodeProto, resizing: _Resizing) -> None:
    sizes = rewriter.constant(np.array(resizing.after, np.int64), node.output[0])
    options: dict[str, Any] = {"mode": resizing.mode, "coordinate_transformation_mode": resizing.coordinates}
    if resizing.mode == "nearest":
        options["nearest_mode"] = resizing.nearest
    if resizing.mode == "cubic":
        options["cubic_coeff_a"] = resizing.cubic
    rewriter.emit("Resize", [node.input[0], "", "", sizes], node.output[0], **options)


def _emit_sums(rewriter: Rewriter, node: onnx.NodeProto, resizing: _Resizing) -> None:
    near, value = node.output[0], node.input[0]
    for axis in resizing.axes:
        places, weights = resizing.weights(axis)
        if places.shape[1] > MOST_GATHERED:
            value = _emit_product(rewriter, value, axis, places, weights, resizing, near)
        else:
            value = _emit_gathers(rewriter, value, axis, places, weights, len(resizing.before), near)
    if resizing.coordinates == "tf_crop_and_resize" and (outside := _outside(resizing)) is not None:
        mask = rewriter.constant(outside, near)
        filled = rewriter.constant(np.array(resizing.extrapolated, np.float32), near)
        value = rewriter.emit("Where", [mask, filled, value], near=near)
    rewriter.emit("Identity", [value], near)


def _emit_gathers(
    rewriter: Rewriter,
    value: str,
    axis: int,
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    rank: int,
    near: str,
) -> str:
    total = ""
    for term in range(places.shape[1]):
        if not weights[:, term].any():
            continue
        index = rewriter.constant(places[:, term], near)
        part = rewriter.emit("Gather", [value, index], near=near, axis=axis)
        if not (weights[:, term] == 1).all():
            shape = [-1 if one == axis else 1 for one in range(rank)]
            factors = rewriter.constant(weights[:, term].reshape(shape), near)
            part = rewriter.emit("Mul", [part, factors], near=near)
        total = rewriter.emit("Add", [total, part], near=near) if total else part
    return total


def _emit_product(
    rewriter: Rewriter,
    value: str,
    axis: int,
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    resizing: _Resizing,
    near: str,
) -> str:
    matrix = np.zeros((resizing.before[axis], resizing.after[axis]), np.float32)
    for output in range(resizing.after[axis]):
        np.add.at(matrix[:, output], places[output], weights[output])
    rank = len(resizing.before)
    order = [one for one in range(rank) if one != axis] + [axis]
    if order != list(range(rank)):
        value = rewriter.emit("Transpose", [value], near=near, perm=order)
    value = rewriter.emit("MatMul", [value, rewriter.constant(matrix, near)], near=near)
    if order != list(range(rank)):
        value = rewriter.emit("Transpose", [value], near=near, perm=np.argsort(order).tolist())
    return value


def _outside(resizing: _Resizing) -> NDArray[np.bool_] | None:
    """Return which elements lie outside the input, as an array that broadcasts; None if none does."""
    rank = len(resizing.before)
    outside: NDArray[np.bool_] = np.zeros([1] * rank, np.bool_)
    for axis in resizing.axes:
        sources = resizing.sources(axis)
        beyond = (sources < 0) | (sources > resizing.before[axis] - 1)
        outside = outside | beyond.reshape([-1 if one == axis else 1 for one in range(rank)])
    return outside if outside.any() else None


def _nearest(sources: NDArray[np.float32], mode: str) -> NDArray[np.float32]:
    known: dict[str, NDArray[np.float32]] = {
        "round_prefer_floor": np.ceil(sources - np.float32(0.5)),
        "round_prefer_ceil": np.floor(sources + np.float32(0.5)),
        "floor": np.floor(sources),
        "ceil": np.ceil(sources),
    }
    if mode not in known:
        raise ModelError(f"nearest_mode {mode} is not known")
    return known[mode]


def _linear(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - distance)


def _cubic(a: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return Keys' cubic kernel. Source: Keys, IEEE Trans. ASSP 29 (1981)."""

    def kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))

    return kernel
