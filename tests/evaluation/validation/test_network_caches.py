from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from veltair.compiler.build.build import LIBRARY, ModelPlan, build, read_plan
from veltair.compiler.search.target import GENERIC_X86, cpu_target
from veltair.evaluation.validation import network_caches
from veltair.evaluation.validation.cachegrind import CachegrindError, find_valgrind
from veltair.evaluation.validation.network_caches import (
    COLUMNS,
    STATES,
    Counted,
    check_network,
    first_layers,
    network_lines,
    simulate,
)
from veltair.machine.models.buffers import query_spans


@pytest.fixture
def plan(tiny_folder: Path) -> ModelPlan:
    return read_plan(tiny_folder)


def test_a_network_s_activations_share_one_memory_and_all_else_has_its_own(plan: ModelPlan) -> None:
    lines = [line.split() for line in network_lines(plan)]
    memories = [line[1:] for line in lines if line[0] == "memory"]
    spans, total = query_spans(plan)
    assert memories[0] == [str(total), "0"] and memories[1] == [str(spans["input", 0, 0][1]), "1"]
    layers = [line for line in lines if line[0] == "layer"]
    assert [line[1] for line in layers] == [
        f"__tvm_ffi_{plan.of(number)[0].symbol}" for number in range(len(plan.layers))
    ]
    for number, line in enumerate(layers):
        called = plan.layers[number]
        assert len(line) - 2 == len(called.inputs) + 1
        assert line[-1].startswith(f"0@{spans['layer', number, 0][0]}=2,32:")
        for source, text in zip(called.inputs, line[2:], strict=False):
            at = text.partition("=")[0]
            if source[0] == "layer":
                assert at == f"0@{spans[source][0]}"
            else:
                assert at.endswith("@0") and at != "0@0"


def test_the_first_layers_of_a_model_compute_no_more_than_is_asked_but_one_always_runs(
    plan: ModelPlan,
) -> None:
    assert first_layers(plan, 10**9) is plan
    assert len(first_layers(plan, 0).layers) >= 1
    macs = [layer.macs for layer in plan.layers]
    cut = first_layers(plan, sum(macs[:2]))
    assert cut.layers == plan.layers[: len(cut.layers)] and sum(one.macs for one in cut.layers) <= sum(
        macs[:2]
    )
    assert cut.outputs == (("layer", len(cut.layers) - 1, 0),)


def test_each_layer_state_and_cache_has_a_row(plan: ModelPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [Counted(number, 2 * number) for number in range(len(plan.layers))]
    monkeypatch.setattr(network_caches, "simulate", lambda *_: dict.fromkeys(STATES, counted))
    table = check_network(plan, Path("kernels.so"), ((1, 2**20), (4, 2**21)), Path("native"))
    assert list(table) == COLUMNS and len(table) == 2 * 2 * len(plan.layers)
    assert table.groupby("cores", sort=False)["cache_bytes"].first().to_dict() == {1: 2**20, 4: 2**21}
    assert table["simulated_write_backs"].tolist()[: len(counted)] == [2 * n for n in range(len(counted))]
    # The tiny network stays in such caches: only the first query fetches anything.
    warm = table[table["state"] == "warm"]
    assert warm["fills"].sum() < 1024 and warm["write_backs"].sum() == 0
    assert (table[table["state"] == "cold"]["fills"] > 0).any() and (table["alone_bytes"] > 0).all()


def test_without_valgrind_it_is_said_how_to_get_it(plan: ModelPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_caches, "find_valgrind", lambda: None)
    with pytest.raises(CachegrindError, match="apt-get install valgrind"):
        simulate(plan, Path("kernels.so"), 1, 2**20, Path("native"))


@pytest.fixture(scope="module")
def portable(tiny_imported: Any, tiny_chosen: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network built for what valgrind knows."""
    folder = tmp_path_factory.mktemp("portable")
    build(tiny_imported, tiny_chosen, cpu_target(64, GENERIC_X86, fma=False), folder)
    return folder


@pytest.mark.long
@pytest.mark.skipif(find_valgrind() is None, reason="valgrind is not installed")
@pytest.mark.parametrize("cores", [1, 3])
def test_a_network_that_fits_its_cache_fetches_all_once_and_then_nothing(
    portable: Path, c_build: Path, cores: int
) -> None:
    table = check_network(read_plan(portable), portable / LIBRARY, ((cores, 2**22),), c_build)
    cold, warm = (table[table["state"] == state] for state in STATES)
    assert warm["simulated_fills"].sum() < 0.02 * cold["simulated_fills"].sum()
    if cores == 1:
        # Of so small a network lines and the stack are a third of what comes; stacks of others are half.
        assert cold["fills"].sum() == pytest.approx(cold["simulated_fills"].sum(), rel=0.5)
    assert table["simulated_write_backs"].sum() == 0


@pytest.mark.long
@pytest.mark.skipif(find_valgrind() is None, reason="valgrind is not installed")
def test_a_kernel_that_the_library_lacks_is_named(portable: Path, c_build: Path) -> None:
    def missing(group: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(one, symbol="no_such_kernel") for one in group)

    plan = read_plan(portable)
    other = replace(plan, versions={name: missing(group) for name, group in plan.versions.items()})
    with pytest.raises(CachegrindError, match="no_such_kernel"):
        simulate(other, portable / LIBRARY, 1, 2**20, c_build)
