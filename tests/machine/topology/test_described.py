from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.topology.described import (
    FOLDER,
    MachineDescription,
    described,
    description_files,
    format_machine,
    read_machine,
    scale,
)
from veltair.machine.topology.topology import Machine

CONTENT = {
    "name": "made-up",
    "cores": 8,
    "core_unit": 2,
    "cache_groups": ["0-3", "4-7"],
    "l2_bytes": 1048576,
    "l3_bytes": 16777216,
    "core_peak_flops": 1.0e11,
    "dram_bytes_per_s": 5.0e10,
    "validated": False,
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "made-up.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return path


def test_the_papers_machine_has_64_cores_in_16_groups_with_a_unit_of_8() -> None:
    machine = described("threadripper-3990x")
    assert (machine.cores, machine.core_unit, len(machine.cache_groups)) == (64, 8, 16)
    assert machine.cache_groups[15] == (60, 61, 62, 63)
    assert machine.total_l3_bytes == 256 * 2**20
    # 2 units x 8 lanes x 2 operations at 2.9 GHz; 4 channels x 8 bytes x 3200 MT/s.
    assert machine.core_peak_flops == pytest.approx(2 * 8 * 2 * 2.9e9)
    assert machine.dram_bytes_per_s == pytest.approx(4 * 8 * 3200e6)
    assert not machine.validated


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_machine_is_read(path: Path) -> None:
    assert described(path.stem).name == path.stem


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LookupError, match=r"no machine 'cray-1'.*known: .*threadripper-3990x"):
        described("cray-1")


def test_a_folder_without_machines_says_so(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="known: none"):
        described("cray-1", tmp_path)


def test_a_name_that_climbs_out_of_the_folder_is_unknown(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "inner").mkdir()
    with pytest.raises(LookupError):
        described("../made-up", tmp_path / "inner")


def test_a_name_unlike_the_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, name="other")
    with pytest.raises(ValueError, match="calls its machine 'other'"):
        described("made-up", tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"cores": 9}, "cores is 9, but cache_groups lists 8"),
        ({"core_unit": 3}, "core unit 3 does not divide 8 cores"),
        ({"cache_groups": ["0-4", "5-7"]}, "cache groups differ in size"),
        ({"cache_groups": ["0-3", "3-6"]}, "must name each core once"),
        ({"cache_groups": ["0-3", "four"]}, "'four' is not a list of core ids"),
        ({"cache_groups": []}, "cache_groups: "),
        ({"l3_bytes": 0}, "l3_bytes: "),
        ({"l2_bytes": "16 MB"}, "l2_bytes: "),
        ({"core_peak_flops": float("nan")}, "core_peak_flops: "),
        ({"dram_bytes_per_s": -1.0}, "dram_bytes_per_s: "),
        ({"validated": "perhaps"}, "validated: "),
        ({"dram_gb_per_s": 50}, "dram_gb_per_s: "),
        ({"clock_factors": []}, "clock_factors: "),
        ({"clock_factors": [[4, 1.5], [2, 1.0]]}, "clock_factors are given at [4, 2] active cores"),
        ({"clock_factors": [[2, 1.5], [2, 1.0]]}, "ascending, each once"),
        ({"clock_factors": [[1, 1.5], [9, 1.0]]}, "give counts from 1 to 8"),
        ({"clock_factors": [[1, float("nan")], [8, 1.0]]}, "clock_factors.0.1: "),
        ({"clock_factors": [[1, 1.5], [8, 0.9]]}, "the last of clock_factors is 0.9"),
        ({"link_groups": 3}, "links of 3 cache groups do not divide its 2"),
        ({"link_bytes_per_s": 0}, "link_bytes_per_s: "),
        ({"core_dram_bytes_per_s": 6.0e10}, "more than the 5e+10 of all cores together"),
        ({"core_dram_bytes_per_s": float("inf")}, "core_dram_bytes_per_s: "),
        ({"launch_s": -1e-9}, "launch_s: "),
        ({"launch_s": float("nan")}, "launch_s: "),
        ({"vector_bits": 0}, "vector_bits: "),
    ],
)
def test_a_bad_value_is_named_with_its_file(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError) as error:
        read_machine(path)
    assert complaint in str(error.value)
    assert str(path) in str(error.value)


def test_a_key_that_no_model_reads_any_more_is_named_as_removed(tmp_path: Path) -> None:
    path = write(tmp_path, l2_bytes_per_s=1e11, dram_latency_s=9.5e-8)
    with pytest.raises(ValueError) as error:
        read_machine(path)
    assert str(error.value) == (
        f"{path}: no model reads l2_bytes_per_s, dram_latency_s any more; delete these keys"
    )


@pytest.mark.parametrize("key", CONTENT)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "made-up.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in CONTENT.items() if name != key}))
    with pytest.raises(ValueError, match=f"{key}: Field required"):
        read_machine(path)


@pytest.mark.parametrize("text", ["", "- a list", "{", "name: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.yaml"):
        read_machine(path)


MEASURED = {
    "clock_factors": ((1, 1.25), (2, 1.125), (4, 1.0)),
    "link_groups": 1,
    "link_bytes_per_s": 3e10,
    "core_dram_bytes_per_s": 2.5e10,
    "launch_s": 1.5e-6,
    "join_s": 2.5e-7,
    "vector_bits": 512,
}


@pytest.mark.parametrize("more", [{}, MEASURED], ids=["required keys", "all keys"])
def test_a_machine_written_is_read_back_equal(tmp_path: Path, more: dict[str, Any]) -> None:
    groups = ((0, 2), (5, 7))
    machine = Machine("host", 1, groups, 2**20, 2**25, 1.17e11, 46792770000.5, validated=True, **more)
    path = tmp_path / "host.yaml"
    path.write_text(format_machine(machine))
    assert read_machine(path) == machine


def test_a_written_machine_says_what_each_key_is() -> None:
    lines = format_machine(described("threadripper-3990x")).splitlines()
    keys = [line for line in lines if line[0] not in "#- "]
    assert len(keys) == len(MachineDescription.model_fields)
    assert all(lines[lines.index(key) - 1].startswith("# ") for key in keys)


def test_what_a_description_leaves_out_neither_limits_nor_costs_anything(tmp_path: Path) -> None:
    machine = read_machine(write(tmp_path))
    assert (machine.core_dram_bytes_per_s, machine.link_groups) == (machine.dram_bytes_per_s, 2)
    assert machine.link_bytes_per_s == float("inf")
    assert machine.launch_s == machine.join_s == 0
    assert machine.clock(1) == machine.clock(8) == 1.0


def test_two_cache_groups_of_the_papers_machine_share_a_link() -> None:
    machine = described("threadripper-3990x")
    # A die reads 32 bytes at 1.6 GHz, and there are 8; boost of a few cores is 4.3 GHz, the base clock 2.9.
    assert machine.link_groups == 2
    assert machine.link_bytes_per_s == pytest.approx(32 * 1.6e9)
    assert machine.clock(1) == machine.clock(4) == pytest.approx(4.3 / 2.9, rel=1e-3)
    assert machine.clock(64) == 1.0


@pytest.mark.parametrize(
    ("name", "cores", "l3_bytes", "dram_bytes_per_s"),
    [
        ("epyc-9654", 96, 384 * 2**20, 12 * 8 * 4800e6),
        ("xeon-platinum-8592", 64, 320 * 2**20, 8 * 8 * 5600e6),
    ],
)
def test_the_servers_have_what_their_data_sheets_say(
    name: str, cores: int, l3_bytes: int, dram_bytes_per_s: float
) -> None:
    machine = described(name)
    assert (machine.cores, machine.total_l3_bytes) == (cores, l3_bytes)
    assert machine.dram_bytes_per_s == pytest.approx(dram_bytes_per_s)
    assert not machine.validated


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + "l3_bytes: 33554432\n")
    with pytest.raises(ValueError, match=r"line 12: the key `l3_bytes` is there twice"):
        read_machine(path)


def write_scaled(folder: Path, cores: int, source: str = "made-up") -> Path:
    path = folder / "larger.yaml"
    path.write_text(yaml.safe_dump({"name": "larger", "scaled": {"from": source, "cores": cores}}))
    return path


def test_a_file_of_two_keys_describes_the_same_machine_with_other_cores(tmp_path: Path) -> None:
    write(tmp_path, clock_factors=[[2, 1.5], [8, 1.0]], link_groups=2, link_bytes_per_s=4.0e10)
    write_scaled(tmp_path, 32)
    made, machine = described("made-up", tmp_path), described("larger", tmp_path)
    assert (machine.name, machine.cores, len(machine.cache_groups)) == ("larger", 32, 8)
    assert machine.cache_groups[7] == (28, 29, 30, 31)
    assert machine.total_l3_bytes == 4 * made.total_l3_bytes
    assert machine.dram_bytes_per_s == 4 * made.dram_bytes_per_s
    assert (machine.link_groups, machine.link_bytes_per_s) == (2, 4.0e10)
    assert machine.clock_factors == ((8, 1.5), (32, 1.0))
    assert (machine.core_unit, machine.core_peak_flops) == (made.core_unit, made.core_peak_flops)


def test_a_machine_scaled_down_to_a_part_of_a_link_has_that_part_of_it(tmp_path: Path) -> None:
    made = read_machine(write(tmp_path, link_groups=2, link_bytes_per_s=4.0e10))
    half = scale(made, 4, "half")
    assert (half.link_groups, half.link_bytes_per_s) == (1, 2.0e10)
    assert half.core_dram_bytes_per_s == half.dram_bytes_per_s == 2.5e10


@given(st.integers(1, 64))
def test_scaling_keeps_the_bandwidth_and_the_l3_of_a_core(times: int) -> None:
    made = described("threadripper-3990x")
    machine = scale(made, 8 * times, "other")
    assert machine.dram_bytes_per_s / machine.cores == pytest.approx(made.dram_bytes_per_s / made.cores)
    assert machine.total_l3_bytes / machine.cores == made.total_l3_bytes / made.cores
    assert machine.clock(machine.cores) == 1.0
    assert machine.clock(1) <= made.clock(1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "{name: larger, scaled: {from: made-up, cores: 6}}",
            "cache groups of 4 cores, which do not divide 6",
        ),
        ("{name: larger, scaled: {from: made-up, cores: 0}}", "scaled.cores: "),
        ("{name: larger, scaled: {cores: 8}}", "scaled.from: Field required"),
        ("{name: larger, scaled: {from: made-up, cores: 8}, l3_bytes: 5}", "l3_bytes: "),
        ("{name: larger, scaled: {from: cray-1, cores: 8}}", "no machine 'cray-1' is described"),
        ("{name: larger, scaled: {from: larger, cores: 8}}", "names larger, itself scaled"),
        ("{scaled: {from: made-up, cores: 8}}", "name: Field required"),
    ],
)
def test_a_scaling_that_cannot_be_is_named_with_its_file(tmp_path: Path, text: str, complaint: str) -> None:
    write(tmp_path)
    path = tmp_path / "larger.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_machine(path)
    assert complaint in str(error.value)
    assert str(path) in str(error.value)


def test_a_scaled_machine_is_named_like_its_file(tmp_path: Path) -> None:
    write(tmp_path)
    write_scaled(tmp_path, 16).rename(tmp_path / "huge.yaml")
    with pytest.raises(ValueError, match="calls its machine 'larger'; name it 'huge'"):
        described("huge", tmp_path)


def test_the_files_of_a_scaled_machine_are_its_own_and_that_of_the_one_it_scales() -> None:
    files = [path.name for path in description_files("threadripper-3990x-8")]
    assert files == ["threadripper-3990x-8.yaml", "threadripper-3990x.yaml"]
    assert description_files("host") == []
