from pathlib import Path

import pytest

from baselines.static import Static
from baselines.streams import Streams
from tests.support.resctrl_trees import removals, tree
from tests.support.schedulers import made, serving
from veltair.evaluation.measurement.cache_parts import cache_parts

CONTEXT = serving({"a": ([0.010], 0.010), "b": ([0.010], 0.010)})


def test_tenants_with_cores_of_their_own_have_ways_of_their_own_and_a_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    removals(monkeypatch)
    with cache_parts(made(Static, CONTEXT), "Static", tree(tmp_path)):
        assert (tmp_path / "veltair-b" / "cpus_list").read_text() == "4-7\n"
    told = "Static: L3 of 20 ways parted: a: cores 0-3, 10 ways; b: cores 4-7, 10 ways\n"
    assert capsys.readouterr().out == told


def test_where_the_machine_offers_nothing_a_line_says_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cache_parts(made(Static, CONTEXT), "Static", tmp_path):
        pass
    assert capsys.readouterr().out.startswith(
        f"Static: no L3 allocation in {tmp_path}: partitions share the L3"
    )


def test_a_policy_without_partitions_has_nothing_parted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cache_parts(made(Streams, CONTEXT, streams=2), "Streams", tree(tmp_path)):
        assert not list(tmp_path.glob("veltair-*"))
    assert capsys.readouterr().out == ""
