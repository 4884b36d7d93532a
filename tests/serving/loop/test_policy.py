import pytest

from tests.support.builders import make_model, running
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Resize

BLOCK = LayerBlock("net", 1, 3)


def test_an_allocation_names_a_version_for_each_layer_of_its_block() -> None:
    assert Allocation(7, BLOCK, (0, 2), 1).versions == (0, 2)


@pytest.mark.parametrize("versions", [(), (0,), (0, 0, 0)])
def test_an_allocation_with_another_number_of_versions_is_refused(versions: tuple[int, ...]) -> None:
    message = f"Allocation of query 7: {len(versions)} versions for 2 layers; give one a layer"
    with pytest.raises(ValueError, match=message):
        Allocation(7, BLOCK, versions, 1)


@pytest.mark.parametrize("cores", [0, -1])
def test_an_allocation_without_cores_is_refused(cores: int) -> None:
    with pytest.raises(ValueError, match=f"Allocation of query 7: {cores} cores; give 1 or more"):
        Allocation(7, BLOCK, (0, 0), cores)


@pytest.mark.parametrize("cores", [0, -1])
def test_a_resize_to_no_cores_is_refused(cores: int) -> None:
    with pytest.raises(ValueError, match=f"Resize of query 7: {cores} cores; give 1 or more"):
        Resize(7, cores)


@pytest.mark.parametrize(("cores", "target", "reserved"), [(2, 2, 2), (2, 5, 5), (5, 2, 5)])
def test_a_running_query_reserves_what_it_holds_and_what_it_grows_into(
    cores: int, target: int, reserved: int
) -> None:
    assert running(1, make_model(), cores, target_cores=target).reserved_cores == reserved
