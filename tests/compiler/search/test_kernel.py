from typing import Any

from veltair.compiler.search.kernel import cold_kernel
from veltair.compiler.search.target import cpu_target


def test_a_candidate_of_each_structure_runs_with_its_weights_packed(
    tiny_imported: Any, tiny_chosen: Any
) -> None:
    target = cpu_target(64)
    for structure, function in tiny_imported.functions().items():
        run = cold_kernel(function, tiny_chosen[structure][0].trace, target)
        assert run() > 0
