import numpy as np
import pytest
import tvm
from tvm import s_tir
from tvm.tirx import build

from tests.support.compiler.nests import matmul
from tests.support.compiler.recipe_fakes import doubled, generate_doubled
from veltair.compiler.search.prepacked import Prepacked, measured_kernel, split_prepacked

# y[8, 32] = x[8, 4] w[4, 32] in 2 tiles of 16 columns; w is packed into [2, 4, 16].
COMPUTED = generate_doubled(matmul(8, 32, 4), doubled(16))["main"]


def copied() -> tvm.tirx.PrimFunc:
    """Return a matrix product that copies its weights into another layout beforehand."""
    schedule = s_tir.Schedule(tvm.IRModule({"main": matmul(8, 32, 4).with_attr("layout_free_buffers", [1])}))
    packed = schedule.cache_read(schedule.get_sblock("C"), 1, "global")
    schedule.annotate(packed, "meta_schedule.layout_rewrite_preproc", True)
    return schedule.mod["main"]


@pytest.mark.parametrize(("function", "shape"), [(COMPUTED, (2, 4, 16)), (copied(), (4, 32))])
def test_what_packs_is_split_off_whether_it_computes_or_copies(
    function: tvm.tirx.PrimFunc, shape: tuple[int, ...]
) -> None:
    split = split_prepacked(function, "product")
    assert (split.kernel, split.packer) == ("product_prepacked", "product_weight_prepack")
    assert (split.packed, split.packed_shapes) == ((1,), (shape,))
    assert set(split.functions) == {split.kernel, split.packer}


def test_a_function_that_packs_nothing_stays_one_kernel() -> None:
    split = split_prepacked(matmul(8, 32, 4), "product")
    assert split == Prepacked(split.functions, "product") and list(split.functions) == ["product"]


def test_packer_and_kernel_together_compute_what_the_function_does() -> None:
    split = split_prepacked(COMPUTED, "product")
    library = build(tvm.IRModule(dict(split.functions)), target="llvm")
    random = np.random.default_rng(0)
    x, w = (random.standard_normal(shape).astype("float32") for shape in ((8, 4), (4, 32)))
    packed, y = (tvm.runtime.empty(shape, "float32") for shape in (split.packed_shapes[0], (8, 32)))
    library[split.packer](tvm.runtime.tensor(w), packed)
    library[split.kernel](tvm.runtime.tensor(x), packed, y)
    np.testing.assert_allclose(y.numpy(), x @ w, rtol=1e-5, atol=1e-5)


def test_what_is_measured_takes_the_packed_weights() -> None:
    module, arguments = measured_kernel(tvm.IRModule({"main": COMPUTED}))
    assert arguments == [("float32", (8, 4)), ("float32", (2, 4, 16)), ("float32", (8, 32))]
    assert [str(name) for name in module.get_global_vars()] != [] and "main" in module


def test_a_kernel_that_is_not_among_the_functions_is_refused() -> None:
    with pytest.raises(ValueError, match="are none of its functions"):
        Prepacked({"kernel": None}, "another")
