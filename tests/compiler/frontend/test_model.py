import pytest

from veltair.compiler.frontend.model import Layer, LayerBlock, Model, structures


def make(name: str, *layer_structures: str) -> Model:
    layers = tuple(Layer(f"{index}", structure, 2) for index, structure in enumerate(layer_structures))
    return Model(name, layers, 0.01)


def test_a_model_has_the_macs_of_its_layers() -> None:
    assert make("net", "a", "b", "a").macs == 6


def test_each_structure_is_listed_once_in_the_order_of_first_use() -> None:
    assert structures([make("one", "b", "a", "b"), make("two", "a", "c")]) == ("b", "a", "c")


def test_a_layer_block_has_as_many_layers_as_it_spans() -> None:
    assert len(LayerBlock("net", 2, 5)) == 3


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (4, 3), (-1, 2)])
def test_an_empty_or_negative_layer_block_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=r"LayerBlock of net.*give start < stop"):
        LayerBlock("net", start, stop)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Model net has no layers"):
        Model("net", (), 0.01)


@pytest.mark.parametrize("qos_s", [0, -1.0, float("nan")])
def test_a_qos_that_is_not_above_zero_is_refused(qos_s: float) -> None:
    with pytest.raises(ValueError, match="give a time above 0"):
        Model("net", (Layer("a", "a", 0),), qos_s)


def test_negative_macs_are_refused() -> None:
    with pytest.raises(ValueError, match="give a count of 0 or more"):
        Layer("a", "a", -1)
