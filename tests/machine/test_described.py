from pathlib import Path

import pytest
import yaml

from veltair.machine.described import FOLDER, described, format_machine, read_machine
from veltair.machine.topology import Machine

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


def test_a_machine_written_is_read_back_equal(tmp_path: Path) -> None:
    machine = Machine("host", 1, ((0, 2), (5, 7)), 2**20, 2**25, 1.17e11, 46792770000.5, validated=True)
    path = tmp_path / "host.yaml"
    path.write_text(format_machine(machine))
    assert read_machine(path) == machine
