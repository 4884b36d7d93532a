"""All passes over an ONNX model in their order: into the form that the importer has right and fuses well."""

from collections.abc import Callable

import onnx
from onnx import helper, inliner

from veltair.compiler.frontend.decompositions import (
    finite_divisors,
    local_responses,
    lookups_of_one,
    skips_as_sums,
    sums_as_products,
)
from veltair.compiler.frontend.folding import fold_constants
from veltair.compiler.frontend.graph import STANDARD, copied, light, opset
from veltair.compiler.frontend.model_error import ModelError, one_line
from veltair.compiler.frontend.normal_forms import (
    averages_with_gaps,
    explicit_pads,
    powers_of_one_type,
    scales_as_wide,
    squeezed_axes,
)
from veltair.compiler.frontend.onnx_passes import (
    drop_identities,
    drop_unused_outputs,
    fold_batch_norm,
    slopes_per_channel,
    sum_to_add,
)
from veltair.compiler.frontend.operators import is_function, is_known
from veltair.compiler.frontend.recurrent import unroll
from veltair.compiler.frontend.resizing import resizes

# Functions of ONNX are made of others at most so often.
MOST_NESTED = 4

Pass = Callable[[onnx.ModelProto], onnx.ModelProto]

PASSES: tuple[Pass, ...] = (
    drop_unused_outputs,
    drop_identities,
    unroll,
    explicit_pads,
    averages_with_gaps,
    finite_divisors,
    lookups_of_one,
    local_responses,
    resizes,
    skips_as_sums,
    scales_as_wide,
    powers_of_one_type,
    sums_as_products,
    squeezed_axes,
    drop_identities,
    fold_batch_norm,
    sum_to_add,
    slopes_per_channel,
)


def rewrite(model: onnx.ModelProto, name: str = "the model") -> onnx.ModelProto:
    """Apply all passes in order and check the result. Raises ModelError that names a node."""
    model = expand_functions(model, name)
    for apply in PASSES:
        try:
            model = apply(model)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
    try:
        onnx.checker.check_model(light(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{name} is not a valid ONNX model: {one_line(error)}") from error
    return model


def expand_functions(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Replace operators that the importer lacks, and ONNX defines by others, by those."""
    version = opset(model)
    for _ in range(MOST_NESTED):
        wanted = {
            node.op_type
            for node in model.graph.node
            if node.domain in STANDARD and not is_known(node.op_type) and is_function(node.op_type, version)
        }
        if not wanted:
            return model
        try:
            inlined = inliner.inline_selected_functions(
                _with_types(_with_defaults(model, wanted)),
                [("", operator) for operator in sorted(wanted)],
                inline_schema_functions=True,
            )
        except Exception as error:  # C++ exceptions of many kinds
            raise ModelError(
                f"{name}: operators {', '.join(sorted(wanted))} cannot be written as others in this form; "
                "replace them in the export, or end the model before them"
            ) from error
        model = fold_constants(inlined, name)
    return model


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the types of all its values, constants too: some functions depend on them."""
    typed = onnx.shape_inference.infer_shapes(model)
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in model.graph.initializer
    )
    return typed


def _with_defaults(model: onnx.ModelProto, operators: set[str]) -> onnx.ModelProto:
    """Write out attributes that have a default: what a function reads of its node must be there."""
    model = copied(model)
    for node in model.graph.node:
        if node.op_type in operators:
            given = {one.name for one in node.attribute}
            schema = onnx.defs.get_schema(node.op_type, opset(model), "")
            for name, attribute in schema.attributes.items():
                if name not in given and attribute.default_value.name:
                    node.attribute.append(attribute.default_value)
    return model
