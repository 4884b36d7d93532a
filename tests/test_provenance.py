import errno
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair import provenance
from veltair.provenance import Provenance, ProvenanceError

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def origin() -> Provenance:
    return Provenance(
        commit="c0ffee",
        dirty=False,
        changes="",
        cpu="Example CPU",
        cores=(0, 1),
        caches={"L3 Unified": "32768K"},
        kernel="6.1",
        python="3.11.7",
        packages={"numpy": "2.4.6"},
        config="1",
        inputs={},
        seed=7,
        time_utc="2026-01-01T00:00:00+00:00",
        command="python -m example",
        details={"source": "probe"},
    )


def _repository(folder: Path) -> Path:
    (folder / "veltair").mkdir(parents=True)
    (folder / "veltair" / "code.py").write_text("x = 1\n")
    (folder / "notes.md").write_text("notes\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)
    return folder


def _no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_result_reads_back_with_its_provenance(tmp_path: Path, origin: Provenance) -> None:
    path = tmp_path / "deep" / "result.json"
    provenance.write_json(path, {"seconds": 0.1}, origin)
    found = provenance.read_provenance(path)
    assert replace(found, result="") == origin and json.loads(path.read_text()) == {"seconds": 0.1}


def test_a_table_reads_back_equal_and_with_its_provenance(tmp_path: Path, origin: Provenance) -> None:
    frame = pd.DataFrame({"model": ["a", "b"], "seconds": [0.1, 1e-300]})
    provenance.write_parquet(tmp_path / "t.parquet", frame, origin)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), frame)
    assert provenance.read_provenance(tmp_path / "t.parquet").seed == 7


def test_writing_leaves_no_temporary_file(tmp_path: Path, origin: Provenance) -> None:
    provenance.write_json(tmp_path / "r.json", 1, origin)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.json.provenance.json"]


def test_a_full_disk_leaves_the_old_result_and_says_so(
    tmp_path: Path, origin: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    provenance.write_json(path, "old", origin)
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(OSError, match=r"the disk is full: \d+ bytes for .*r\.json do not fit; free space"):
        provenance.write_json(path, "new", origin)
    assert json.loads(path.read_text()) == "old"
    assert provenance.read_provenance(path).seed == 7
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_fills_up_after_the_provenance_leaves_neither(
    tmp_path: Path, origin: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors: list[int] = []

    def room_for_one(descriptor: int) -> None:
        descriptors.append(descriptor)
        if len(descriptors) > 1:
            _no_space(descriptor)

    monkeypatch.setattr(os, "fsync", room_for_one)
    with pytest.raises(OSError, match="the disk is full"):
        provenance.write_json(tmp_path / "r.json", "new", origin)
    assert list(tmp_path.iterdir()) == []


def test_any_other_error_of_writing_is_passed_on(tmp_path: Path, origin: Provenance) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        provenance.write_json(tmp_path / "file" / "r.json", 1, origin)


def test_a_result_without_provenance_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("1")
    with pytest.raises(ProvenanceError, match=r"r\.json\.provenance\.json is missing, .* anew"):
        provenance.read_provenance(tmp_path / "r.json")


def test_a_result_changed_after_it_was_written_is_refused(tmp_path: Path, origin: Provenance) -> None:
    provenance.write_json(tmp_path / "r.json", 1, origin)
    (tmp_path / "r.json").write_text("2")
    with pytest.raises(ProvenanceError, match="is not the file"):
        provenance.read_provenance(tmp_path / "r.json")


def test_not_a_number_is_not_written(tmp_path: Path, origin: Provenance) -> None:
    with pytest.raises(ValueError, match="JSON"):
        provenance.write_json(tmp_path / "r.json", float("nan"), origin)


SETTINGS = {"simulated.queries": 100, "qos.relax": 2.3}


def origins(origin: Provenance, **changes: object) -> dict[Path, Provenance]:
    """Two results of the same step, the second with changes."""
    one = replace(origin, code="aa", settings=SETTINGS)
    return {Path("one.csv"): one, Path("two.csv"): replace(one, **changes)}


def test_results_of_one_code_configuration_and_machine_go_into_one_table(origin: Provenance) -> None:
    others = {"seed": 8, "kernel": "6.2", "time_utc": "later", "commit": "decaf", "changes": "1"}
    provenance.check_same_origin(origins(origin, **others), measured=True)


def test_keys_that_only_one_of_them_read_do_not_matter(origin: Provenance) -> None:
    provenance.check_same_origin(origins(origin, settings={"qos.relax": 2.3, "measured.seed": 1}))


def test_simulated_results_are_the_same_on_each_machine(origin: Provenance) -> None:
    provenance.check_same_origin(origins(origin, cpu="Other CPU", cores=(0,), caches={}))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"cpu": "Other CPU"}, 'cpu is "Example CPU" of one.csv, but "Other CPU" of two.csv'),
        ({"cores": (0,)}, "cores is [0, 1] of one.csv, but [0] of two.csv"),
        ({"caches": {}}, 'caches is {"L3 Unified": "32768K"} of one.csv, but {} of two.csv'),
        ({"code": "bb"}, 'code is "aa" of one.csv, but "bb" of two.csv'),
        ({"code": ""}, 'code is "aa" of one.csv, but "not noted" of two.csv'),
        (
            {"settings": {**SETTINGS, "simulated.queries": 200}},
            "simulated.queries is 100 of one.csv, but 200 of two.csv",
        ),
    ],
)
def test_measured_results_of_unlike_origin_are_refused_with_each_field_and_file(
    origin: Provenance, change: dict[str, object], line: str
) -> None:
    with pytest.raises(ProvenanceError) as caught:
        provenance.check_same_origin(origins(origin, **change), measured=True)
    first, *lines, last = str(caught.value).splitlines()
    assert first == "results of unlike origin do not go into one table:"
    assert lines == [f"  {line}"]
    assert last == "make the odd ones anew: delete them, and run again"


@pytest.mark.parametrize("field", ["commit", "changes"])
def test_code_that_is_not_noted_is_told_by_its_commit(origin: Provenance, field: str) -> None:
    results = {Path("one.csv"): origin, Path("two.csv"): replace(origin, **{field: "1"})}
    with pytest.raises(ProvenanceError, match=f'  {field} is .* of one.csv, but "1" of two.csv'):
        provenance.check_same_origin(results)


def test_of_many_files_some_are_named(origin: Provenance) -> None:
    results = {Path(f"{number}.csv"): replace(origin, code="aa") for number in range(5)}
    results[Path("odd.csv")] = replace(origin, code="bb")
    with pytest.raises(ProvenanceError, match=r'"aa" of 0\.csv, 1\.csv, 2\.csv and 2 more, but "bb" of odd'):
        provenance.check_same_origin(results)


def test_the_settings_of_results_of_unlike_steps_are_compared_alone(origin: Provenance) -> None:
    provenance.check_same_settings(origins(origin, code="bb", cpu="Other CPU"))
    with pytest.raises(ProvenanceError, match=r"qos\.relax is 2\.3 of one\.csv, but 1\.0 of two\.csv"):
        provenance.check_same_settings(origins(origin, settings={"qos.relax": 1.0}))


def test_what_a_step_writes_names_its_code_and_the_keys_that_it_read() -> None:
    with provenance.made_by("c0de"):
        found = provenance.collect({"qos": {"relax": 2.0}, "policies": {"A": {"options": {}}}, "preset": "x"})
    assert found.code == "c0de"
    assert found.settings == {"qos.relax": 2.0, "policies.A": {"options": {}}, "preset": "x"}
    assert provenance.collect().code == ""


def test_what_is_collected_names_this_machine_and_its_inputs(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("abc")
    found = provenance.collect(config={"a": 1}, inputs=[tmp_path / "in.txt"], seed=3, proxy="probe")
    # SHA-256 of "abc", the example of FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found.inputs == {str(tmp_path / "in.txt"): digest}
    assert found.cores == tuple(sorted(os.sched_getaffinity(0)))
    assert found.packages["pandas"] == pd.__version__
    assert found.details == {"proxy": "probe"} and found.seed == 3


def test_an_input_of_this_checkout_is_named_from_its_top_wherever_that_lies() -> None:
    claims = provenance.SOURCES / "veltair" / "data" / "claims.yaml"
    assert list(provenance.collect(inputs=[claims]).inputs) == ["veltair/data/claims.yaml"]


def test_what_is_collected_can_be_written(tmp_path: Path) -> None:
    provenance.write_json(tmp_path / "r.json", 1, provenance.collect(config={"a": 1}))
    assert provenance.read_provenance(tmp_path / "r.json").config == provenance.fingerprint({"a": 1})


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_the_order_of_keys_does_not_change_a_fingerprint(values: dict[str, object]) -> None:
    turned = dict(reversed(values.items()))
    assert provenance.fingerprint(values) == provenance.fingerprint(turned)


def test_another_value_changes_the_fingerprint() -> None:
    assert provenance.fingerprint({"a": 1}) != provenance.fingerprint({"a": 1.5})


def test_a_fresh_commit_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "SOURCES", _repository(tmp_path / "repository"))
    found = provenance.collect()
    assert len(found.commit) == 40 and (found.dirty, found.changes) == (False, "")


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_changed_and_new_code_is_dirty_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(provenance, "SOURCES", _repository(tmp_path / "repository"))
    changes = set()
    for text in ("x = 2\n", "x = 3\n"):
        (tmp_path / "repository" / "veltair" / name).write_text(text)
        found = provenance.collect()
        assert found.dirty
        changes.add(found.changes)
    assert len(changes) == 2


def test_changed_notes_are_not_changed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "SOURCES", _repository(tmp_path / "repository"))
    (tmp_path / "repository" / "notes.md").write_text("more\n")
    assert not provenance.collect().dirty


def test_a_copy_without_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "SOURCES", tmp_path)
    assert provenance.collect().commit == provenance.NO_COMMIT


def test_a_copy_inside_another_checkout_has_no_commit_of_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = _repository(tmp_path / "other") / "unpacked"
    (copy / "veltair").mkdir(parents=True)
    monkeypatch.setattr(provenance, "SOURCES", copy)
    found = provenance.collect()
    assert (found.commit, found.dirty) == (provenance.NO_COMMIT, False)


def test_the_checkout_that_a_hook_of_git_names_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "SOURCES", _repository(tmp_path / "ours"))
    commit = provenance.collect().commit
    other = _repository(tmp_path / "other")
    (other / "veltair" / "code.py").write_text("x = 5\n")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    found = provenance.collect()
    assert (found.commit, found.dirty) == (commit, False)


def test_a_cache_of_which_the_system_tells_no_size_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, values in enumerate((("1", "Data", "32K"), ("2", "Unified", None))):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), values, strict=True):
            if value:
                (folder / name).write_text(f"{value}\n")
    monkeypatch.setattr(provenance, "CACHES", tmp_path)
    assert provenance.collect().caches == {"L1 Data": "32K"}


@pytest.mark.parametrize("text", ["", "[]", "null", '{"commit": "c0ffee"}', "[" * 100_000])
def test_a_provenance_that_is_cut_off_or_foreign_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text("1")
    (tmp_path / "r.json.provenance.json").write_text(text)
    with pytest.raises(ProvenanceError, match=r"r\.json\.provenance\.json does not hold a provenance"):
        provenance.read_provenance(tmp_path / "r.json")


def test_a_provenance_with_a_value_of_another_kind_is_refused(tmp_path: Path, origin: Provenance) -> None:
    provenance.write_json(tmp_path / "r.json", 1, origin)
    beside = tmp_path / "r.json.provenance.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"time_utc": 5}))
    with pytest.raises(ProvenanceError, match="does not hold a provenance"):
        provenance.read_provenance(tmp_path / "r.json")
