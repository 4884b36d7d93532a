"""A kernel apart from what packs its constants: how it is called once these are packed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import relax
from tvm.ir import IRModule

from veltair.compiler.footprint.tiling import count_outputs


@dataclass(frozen=True, slots=True)
class Prepacked:
    """The kernels of a scheduled function, by name.

    `packer`, if any, is the one that packs the arguments at `packed` (their places) into arrays of
    `packed_shapes`, in this order; `kernel` is the one that is called with these in their stead.
    """

    functions: Mapping[str, Any]
    kernel: str
    packer: str = ""
    packed: tuple[int, ...] = ()
    packed_shapes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if missing := {self.kernel, self.packer} - {*self.functions, ""}:
            raise ValueError(f"Prepacked: {missing} are none of its functions {list(self.functions)}")


def split_prepacked(function: Any, symbol: str) -> Prepacked:
    """Return a scheduled function split into its kernel and the one that packs its constants, if any.

    Blocks annotated with `meta_schedule.layout_rewrite_preproc` pack; they may copy or compute. `symbol`
    begins the names of both.
    """
    module = relax.transform.SplitLayoutRewritePreproc()(
        _one_call(function.with_attr("global_symbol", symbol), symbol)
    )
    calls = [
        binding.value
        for block in module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]
    names = [call.args[0].name_hint for call in calls]
    functions = {
        name: module[call.args[0]].with_attr("global_symbol", name)
        for name, call in zip(names, calls, strict=True)
    }
    if len(calls) == 1:
        return Prepacked(functions, names[-1])
    arguments = [variable.name for variable in module["main"].params]
    packed = tuple(arguments.index(variable.name) for variable in calls[0].args[1].fields)
    (output,) = calls[0].ty_args
    fields = output.fields if hasattr(output, "fields") else [output]
    shapes = tuple(tuple(int(extent) for extent in field.shape) for field in fields)
    return Prepacked(functions, names[-1], names[0], packed, shapes)


def measured_kernel(module: Any) -> tuple[Any, list[tuple[str, tuple[int, ...]]]]:
    """Return the kernel of a module's "main" without what packs its constants, as a module of its own.

    Its name is "main" again. The second result are the dtypes and shapes of its arguments, the packed ones
    among them.
    """
    split = split_prepacked(module["main"], "kernel")
    kernel = split.functions[split.kernel].with_attr("global_symbol", "main")
    arguments = [
        (str(parameter.ty.dtype), tuple(int(extent) for extent in parameter.ty.shape))
        for parameter in kernel.params
    ]
    return IRModule({"main": kernel}), arguments


def _one_call(function: Any, symbol: str) -> Any:
    """Return a Relax module that only calls the function, for Relax's pass works on calls."""
    builder = relax.BlockBuilder()
    kernel = builder.add_func(function, symbol)
    tensors = [
        relax.TensorType([int(extent) for extent in parameter.ty.shape], str(parameter.ty.dtype))
        for parameter in function.params
    ]
    first_output = len(tensors) - count_outputs(function)
    variables = [relax.Var(f"a{index}", tensor) for index, tensor in enumerate(tensors[:first_output])]
    made = tensors[first_output:]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(
                relax.call_tir(kernel, variables, out_ty=made if len(made) > 1 else made[0])
            )
        builder.emit_func_output(result)
    return builder.get()
