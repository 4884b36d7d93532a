"""Rewrites of a Relax module, from what TVM's ONNX importer makes to fused layers; all keep the function.

What they mend was found by running models: an operator that fusion does not know ends a layer, and a
transpose that no neighbour takes in is a layer of its own.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, topi
from tvm.relax.analysis import get_var2val
from tvm.relax.dpl import is_const, is_op, wildcard
from tvm.relax.expr_functor import PyExprMutator, mutator

# What FuseOps may join a kernel with, where TVM does not read it off the kernel's loops.
INJECTIVE = {"op_pattern": 2}
# Transposes of (batch, tokens, heads, width). The first is its own inverse.
HEADS_FIRST, HEADS_FIRST_TOKENS_LAST = (0, 2, 1, 3), (0, 2, 3, 1)

Rewrite = Callable[[Any, Any], Any]


def fuse(module: Any) -> Any:
    """Return a module from the importer as calls of fused kernels, its convolutions in NHWC."""
    module = _operators_in_nhwc(_out_of_heads(_into_heads(_fold_constants(module))))
    return _join_operators(_mutate(_fold_constants(module), _KernelMutator))


def number_inputs(module: Any) -> Any:
    """Name a model's inputs as Relax names variables: blocks, which traces name, are named after them."""
    main = module["main"]
    inputs = [relax.Var(f"lv{index}", given.ty) for index, given in enumerate(main.params)]
    bound = main.bind_params(dict(zip(main.params, inputs, strict=True)))
    named = relax.Function(inputs, bound.body, bound.ret_ty, bound.is_pure, bound.attrs)
    return tvm.IRModule({**module.functions, module.get_global_var("main"): named}, attrs=module.attrs)


def _fold_constants(module: Any) -> Any:
    return relax.transform.FoldConstant()(_mutate(module, _ConstantMutator))


def _operators_in_nhwc(module: Any) -> Any:
    passes = tvm.ir.transform.Sequential(
        [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.CanonicalizeBindings(),
            # NHWC vectorises over channels; it was about twice as fast as NCHW. A transposed convolution has
            # kernels for NCHW alone, so that it must be told to stay there behind one in NHWC.
            relax.transform.ConvertLayout(
                {"relax.nn.conv2d": ["NHWC", "HWIO"], "relax.nn.conv2d_transpose": ["NCHW", "IOHW"]}
            ),
            relax.transform.Normalize(),
        ]
    )
    return passes(module)


def _join_operators(module: Any) -> Any:
    passes = tvm.ir.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.AttachAttrLayoutFreeBuffers(),
            relax.transform.DeadCodeElimination(),
        ]
    )
    return passes(module)


def _mutate(module: Any, mutator_class: Callable[[Any], Any]) -> Any:
    """Return the module with its Relax functions visited by a mutator."""
    change = mutator_class(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            change.builder_.update_func(variable, change.visit_expr(function))
    return relax.transform.DeadCodeElimination()(change.builder_.get())


def _operator(call: Any) -> str:
    return str(call.op.name) if isinstance(call.op, tvm.ir.Op) else ""


def _constant(expression: Any) -> NDArray[Any] | None:
    if not isinstance(expression, tvm.ir.GenericConst):
        return None
    values: NDArray[Any] = expression.value.numpy()
    return values


def _shape(expression: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in expression.ty.shape)


def _axes(permute: Any) -> tuple[int, ...]:
    """Return the order in which a transpose puts the axes; empty where it reverses them unnamed."""
    return tuple(int(axis) for axis in permute.attrs.axes or ())


@mutator
class _ConstantMutator(PyExprMutator):  # type: ignore[misc]  # TVM has no types
    """Computes in numpy what becomes of constants; for each, FoldConstant would compile a kernel."""

    FOLDS: ClassVar[dict[str, Callable[..., NDArray[Any]]]] = {
        "relax.isnan": lambda _, values: np.isnan(values),
        "relax.permute_dims": lambda call, values: values.transpose(_axes(call) or None),
        "relax.reshape": lambda call, values: values.reshape(_shape(call)),
        "relax.where": lambda _, *values: np.where(*values),
    }

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        fold = self.FOLDS.get(_operator(call))
        if fold is None:
            return call
        values = [self._values(term) for term in call.args if not isinstance(term, relax.ShapeExpr)]
        if any(value is None for value in values):
            return call
        folded = np.array(fold(call, *values), order="C")
        # Without its type it makes 32-bit integers of 64-bit ones.
        return relax.const(folded, str(folded.dtype))

    def _values(self, term: Any) -> NDArray[Any] | None:
        return _constant(self.lookup_binding(term) if isinstance(term, relax.Var) else term)


def _into_heads(module: Any) -> Any:
    """Let projections write each head of an attention where it is read, without a transpose.

    With s tokens and h heads of width w: (1, s, k) -> matmul with k x (h w), add, reshape (1, s, h, w),
    transpose (1, h, s, w) is one product a head. Of a transpose to (1, h, w, s), as keys have, the half to
    (1, h, s, w) goes. The rest stays: what sums over w vectorises over tokens, which must lie side by side.
    """
    weight, bias = is_const(), is_const()
    product = is_op("relax.matmul")(wildcard(), weight)
    split = is_op("relax.reshape")(is_op("relax.add")(product, bias), wildcard())

    def rewrite(permute: Any, found: Any) -> Any:
        source = found[product].args[0]
        _, tokens, heads, width = (*_shape(found[split]), 0, 0, 0, 0)[:4]
        inner = _shape(source)[-1]
        if (
            _axes(permute) not in (HEADS_FIRST, HEADS_FIRST_TOKENS_LAST)
            or _shape(source) != (1, tokens, inner)
            or _shape(found[weight]) != (inner, heads * width)
            or _shape(found[bias]) != (heads * width,)
        ):
            return permute
        weights = found[weight].value.numpy().reshape(1, inner, heads, width).transpose(0, 2, 1, 3)
        biases = found[bias].value.numpy().reshape(1, heads, 1, width)
        # (1, s, k) x (1, h, k, w): the tokens are read anew for each head.
        value = relax.op.add(relax.op.matmul(source, relax.const(weights)), relax.const(biases))
        return value if _axes(permute) == HEADS_FIRST else relax.op.permute_dims(value, (0, 1, 3, 2))

    return _rewrite_calls(module, is_op("relax.permute_dims")(split), rewrite)


def _out_of_heads(module: Any) -> Any:
    """Let a projection read each head of an attention where it was written, without a transpose.

    (b, h, s, w) -> transpose, reshape (b, s, h w), matmul with (h w) x n is one sum over heads and widths.
    """
    weight = is_const()
    permuted = is_op("relax.permute_dims")(wildcard())
    joined = is_op("relax.reshape")(permuted, wildcard())

    def rewrite(matmul: Any, found: Any) -> Any:
        (context,) = found[permuted].args
        batch, heads, tokens, width = (*_shape(context), 0, 0, 0, 0)[:4]
        values = found[weight].value.numpy()
        if (
            _axes(found[permuted]) != HEADS_FIRST
            or _shape(found[joined]) != (batch, tokens, heads * width)
            or values.ndim != 2
        ):
            return matmul
        weights = relax.const(values.reshape(heads, width, -1))
        return relax.op.einsum([context, weights], "bhsw,hwn->bsn")

    return _rewrite_calls(module, is_op("relax.matmul")(joined, weight), rewrite)


def _rewrite_calls(module: Any, pattern: Any, rewrite: Rewrite) -> Any:
    """Return the module with each match of a pattern replaced by what `rewrite(match, parts)` returns.

    `parts` holds the calls and constants that match the parts of the pattern.
    """
    return _mutate(module, lambda module: _PatternMutator(module, pattern, rewrite))


@mutator
class _PatternMutator(PyExprMutator):  # type: ignore[misc]  # TVM has no types
    """Replaces what matches a pattern. TVM's own `rewrite_call` takes seconds for a gigabyte of weights."""

    def __init__(self, module: Any, pattern: Any, rewrite: Rewrite) -> None:
        super().__init__(module)
        self._pattern, self._rewrite = pattern, rewrite
        self._made = get_var2val(module["main"])

    def visit_call_(self, call: Any) -> Any:
        found = self._pattern.extract_matched_expr(call, self._made)
        return super().visit_call_(self._rewrite(call, found) if found else call)


@mutator
class _KernelMutator(PyExprMutator):  # type: ignore[misc]  # TVM has no types
    """Lets gathers fuse, and turns divisions by constants into multiplications."""

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if _operator(call) == "relax.take":
            # An index beyond the table reads its last entry, not memory that is not the table's.
            return self.builder_.call_te(
                lambda table, indices: topi.take(table, indices, call.attrs.axis, mode="clip"),
                *call.args,
                primfunc_name_hint="take",
                primfunc_attrs=INJECTIVE,
            )
        divisor = _constant(call.args[1]) if _operator(call) == "relax.divide" else None
        if divisor is not None and divisor.dtype == np.float32 and _has_normal_inverse(divisor):
            return relax.op.multiply(call.args[0], relax.const(1 / divisor))
        return call


def _has_normal_inverse(divisor: NDArray[Any]) -> bool:
    """Tell whether 1 / divisor is neither infinite nor so small that it has lost digits."""
    limits = np.finfo(np.float32)
    size = np.abs(divisor.astype(np.float64))
    return bool(((size <= 1 / float(limits.tiny)) & (size >= 1 / float(limits.max))).all())
