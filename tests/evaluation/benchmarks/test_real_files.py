import zipfile
from pathlib import Path

import pytest

from veltair.evaluation.benchmarks.real_files import (
    FoundFile,
    RealFile,
    fetch_real_files,
    find_real_files,
    read_found,
    read_real_files,
)

FILE = RealFile("some-net==1.2", "some_net/net.onnx")


def wheel(folder: Path, name: str = "Some_Net-1.2-py3-none-any.whl") -> None:
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("some_net/net.onnx", b"network")


def refused(package: str, folder: Path) -> str:
    return f"{package}: no route"


def never(package: str, folder: Path) -> str:
    raise AssertionError(f"{package} was downloaded")


def test_the_shipped_list_is_of_pinned_wheels_and_says_what_is_searched() -> None:
    files = read_real_files()
    assert {file.package for file in files.values() if "==" not in file.package} == {"onnx"}
    assert sum(file.searches for file in files.values()) == 3
    assert files["silero_vad_op18_ifless"].constants == {"sr": 16000}


def test_a_file_is_unpacked_from_a_wheel_that_is_there_however_its_name_is_spelt(tmp_path: Path) -> None:
    wheel(tmp_path)
    found = find_real_files({"net": FILE}, tmp_path, never)
    assert found == {"net": FoundFile(tmp_path / "net.onnx")}
    assert (tmp_path / "net.onnx").read_bytes() == b"network"


def test_a_wheel_of_another_version_is_not_taken(tmp_path: Path) -> None:
    wheel(tmp_path, "some_net-1.20-py3-none-any.whl")
    assert find_real_files({"net": FILE}, tmp_path, refused)["net"].path is None


def test_a_package_is_downloaded_once_for_all_its_files(tmp_path: Path) -> None:
    asked = []

    def download(package: str, folder: Path) -> str:
        asked.append(package)
        wheel(folder)
        return ""

    found = find_real_files({"one": FILE, "two": FILE}, tmp_path, download)
    assert asked == ["some-net==1.2"]
    assert all(one.path for one in found.values())


def test_where_nothing_can_be_downloaded_the_reason_stands_instead_and_nobody_asks_twice(
    tmp_path: Path,
) -> None:
    asked = []

    def download(package: str, folder: Path) -> str:
        asked.append(package)
        return refused(package, folder)

    found = find_real_files({"one": FILE, "two": FILE}, tmp_path, download)
    assert found["two"] == FoundFile(None, "some-net==1.2: no route")
    assert len(asked) == 1


def test_a_wheel_without_the_file_is_named(tmp_path: Path) -> None:
    wheel(tmp_path)
    found = find_real_files({"net": RealFile("some-net==1.2", "other.onnx")}, tmp_path, never)
    assert "holds no other.onnx" in found["net"].reason


def test_what_lies_in_the_installed_package_is_found_there_and_written_down(tmp_path: Path) -> None:
    light = {"light": RealFile("onnx", "onnx/backend/test/data/light/light_squeezenet.onnx")}
    fetch_real_files(light, tmp_path, tmp_path / "found.json")
    path = read_found(tmp_path / "found.json")["light"].path
    assert path is not None
    assert path.is_file()


def test_a_package_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="some-net is not pinned"):
        RealFile("some-net", "net.onnx")


def test_a_file_is_not_searched_that_is_not_served() -> None:
    with pytest.raises(ValueError, match="write `serves: true` too"):
        RealFile("onnx", "net.onnx", searches=True)
