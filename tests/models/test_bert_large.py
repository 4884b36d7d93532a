from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from models.bert_large import LARGE, Size, bert_large
from tests.support.compiler.unscheduled import Unscheduled, run_unscheduled
from tests.support.onnx_builders import relative_error, run_onnx
from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.samples import Input

SMALL = Size(layers=2, hidden=64, heads=4, vocabulary=100, positions=32, sequence=24)
DEEP = replace(SMALL, layers=LARGE.layers)
Array = NDArray[np.int64]


@pytest.fixture(scope="module")
def small() -> onnx.ModelProto:
    return bert_large(size=SMALL)


@pytest.fixture(scope="module")
def imported(small: onnx.ModelProto) -> ImportedModel:
    return import_model("bert", small, 1.0)


@pytest.fixture(scope="module")
def compiled(imported: ImportedModel) -> Unscheduled:
    return Unscheduled(imported)


def text(seed: int, length: int) -> tuple[Array, Array, Array]:
    """Return random tokens, the mask of a text of `length` tokens and segments whose second half is 1."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, SMALL.vocabulary, (1, SMALL.sequence))
    indices = np.arange(SMALL.sequence)[None]
    return tokens, (indices < length).astype(np.int64), (indices >= length // 2).astype(np.int64)


def parameters(size: Size) -> int:
    """Return the parameters of a BERT by the paper's section 3, with a head of two logits for its pooler."""
    norm = 2 * size.hidden
    embeddings = (size.vocabulary + size.positions + 2) * size.hidden + norm
    attention = 4 * (size.hidden + 1) * size.hidden + norm
    perceptron = (size.hidden + 1) * 4 * size.hidden + (4 * size.hidden + 1) * size.hidden + norm
    return embeddings + size.layers * (attention + perceptron) + 2 * (size.hidden + 1)


def macs(size: Size) -> int:
    """Return the multiply-accumulates of one sequence: of matrix products, and of squares to normalise."""
    return products(size) + (2 * size.layers + 1) * size.sequence * size.hidden


def products(size: Size) -> int:
    """Return the multiply-accumulates of all matrix products."""
    projections = size.sequence * 12 * size.hidden**2
    attention = 2 * size.sequence**2 * size.hidden
    return size.layers * (projections + attention) + 2 * size.sequence * size.hidden


def test_bert_large_has_the_published_parameters_and_macs() -> None:
    # Hugging Face's BertForQuestionAnswering of bert-large-uncased has 334 094 338 parameters; the paper says
    # 340 M. 24 x 384 x (12 x 1024^2 + 2 x 384 x 1024) = 123.2 G products.
    assert parameters(LARGE) == 334_094_338
    assert products(LARGE) == 123_211_874_304 + 786_432


def test_a_small_bert_has_the_parameters_of_the_formula(small: onnx.ModelProto) -> None:
    weights = [tensor for tensor in small.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    sizes = [numpy_helper.to_array(tensor).size for tensor in weights if tensor.dims]
    assert sum(sizes) == parameters(SMALL)


def test_a_small_bert_takes_the_macs_of_the_formula(imported: ImportedModel) -> None:
    assert imported.model.macs == macs(SMALL)


def test_its_inputs_and_their_ranges_are_those_of_mlperf(imported: ImportedModel) -> None:
    assert imported.inputs == (
        Input("input_ids", (1, 24), "int64", 0, 99),
        Input("input_mask", (1, 24), "int64", 0, 1),
        Input("segment_ids", (1, 24), "int64", 0, 1),
    )


def test_the_encoder_layers_share_nine_structures(imported: ImportedModel) -> None:
    # Besides them: the embeddings, their normalisation (one of the nine), the mask and the head.
    assert len(imported.calls) == 2 * 12 + 4
    assert len(imported.functions()) == 9 + 3


def test_of_an_encoder_layers_transposes_the_keys_remain(imported: ImportedModel) -> None:
    kinds = [layer.structure.rsplit("-", 1)[0] for layer in imported.model.layers]
    assert [kind for kind in kinds if "transpose" in kind or "reshape" in kind] == ["transpose"] * 2


@pytest.mark.parametrize("length", [24, 17, 1])
def test_a_small_bert_agrees_with_onnx_runtime_on_texts_with_padding(
    small: onnx.ModelProto, compiled: Unscheduled, length: int
) -> None:
    samples = text(length, length)
    (wanted,) = run_onnx(small, *samples)
    (found,) = compiled.run(samples)
    assert found.shape == wanted.shape == (1, 24, 2)
    assert relative_error(found, wanted) < 5e-6


def test_padding_does_not_change_the_answer_and_the_text_does(compiled: Unscheduled) -> None:
    tokens, mask, segments = text(0, 17)
    padded, changed = tokens.copy(), tokens.copy()
    padded[0, 17:] = 0
    changed[0, 3] = (changed[0, 3] + 1) % SMALL.vocabulary
    answer, other_padding, other_text = (
        compiled.run((words, mask, segments))[0][0, :17] for words in (tokens, padded, changed)
    )
    assert np.array_equal(answer, other_padding)
    # Attention carries the change to every token.
    assert (np.abs(answer - other_text).max(axis=1) > 1e-3).all()


def test_each_input_and_each_position_counts(small: onnx.ModelProto) -> None:
    tokens, mask, segments = text(0, 24)
    (answer,) = run_onnx(small, tokens, mask, segments)
    (shifted,) = run_onnx(small, np.roll(tokens, 1, axis=1), mask, np.roll(segments, 1, axis=1))
    assert relative_error(np.roll(shifted, -1, axis=1), answer) > 0.05
    for samples in ((tokens, mask, 1 - segments), (tokens, mask * (segments > 0), segments)):
        assert relative_error(run_onnx(small, *samples)[0], answer) > 0.05


def test_after_all_layers_tokens_differ_and_feel_padding_and_each_other() -> None:
    # Were they all the same, or each alone, agreement with ONNX Runtime would mean little.
    model = bert_large(size=DEEP)
    tokens, mask, segments = text(0, 24)
    other = tokens.copy()
    other[0, 3] = (other[0, 3] + 1) % DEEP.vocabulary
    padding = text(0, 17)[1]
    answer, padded, changed = (
        run_onnx(model, *samples)[0][0]
        for samples in ((tokens, mask, segments), (tokens, padding, segments), (other, mask, segments))
    )
    largest = np.abs(answer).max()
    assert 0.5 < largest < 10
    assert (answer.std(axis=0) > 0.1 * largest).all()
    assert np.abs(answer - padded)[:17].mean() > 0.02 * largest
    assert np.delete(np.abs(answer - changed), 3, axis=0).mean() > 0.01 * largest


def test_the_answer_agrees_with_onnx_runtime_through_all_layers() -> None:
    model = bert_large(size=DEEP)
    samples = text(1, 17)
    (found,) = run_unscheduled(import_model("deep", model, 1.0), samples)
    assert relative_error(found, run_onnx(model, *samples)[0]) < 2e-5


def test_attention_is_neither_uniform_nor_all_on_one_token(small: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(small)
    for layer in range(SMALL.layers):
        name, shape = f"layer{layer}.attention.softmax", (1, SMALL.heads, SMALL.sequence, SMALL.sequence)
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    for weights in run_onnx(model, *text(0, 24))[1:]:
        largest = weights.max(axis=-1)
        assert 2 / SMALL.sequence < np.median(largest) < 0.9


def test_a_bert_is_the_same_bytes_each_time_and_others_for_another_seed() -> None:
    one, again, other = (bert_large(seed, SMALL).SerializeToString(deterministic=True) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"hidden": 10, "heads": 4}, "hidden 10 is no multiple of heads 4"),
        ({"sequence": 33, "positions": 32}, "sequence 33 exceeds the 32 positions"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_an_impossible_size_is_refused(numbers: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Size(**numbers)
