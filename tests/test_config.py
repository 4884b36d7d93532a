import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import validate

from veltair.config import Config, ConfigError, checks, load, parse
from veltair.config.__main__ import PAGE, SCHEMA, main
from veltair.config.document import page_text, schema_text
from veltair.config.load import key_paths
from veltair.config.replaced import REPLACED_KEYS
from veltair.serving.policies.presets import check_policy

ROOT = Path(__file__).parents[1]
FILES = ("config", "smoke", "paper", "many_core")

Change = Callable[[dict[str, Any]], object]


def _values() -> dict[str, Any]:
    """The least configuration: everything else has a default."""
    return {
        "models": {"net": {"builder": "models.resnet50:resnet50", "qos_ms": 15}},
        "workloads": {"mix": {"net": 1}},
        "policies": {"Fifo": {"path": "somewhere:Fifo"}},
    }


def _set(path: str, value: object) -> Change:
    def change(values: dict[str, Any]) -> None:
        *groups, last = path.split(".")
        for group in groups:
            values = values.setdefault(group, {})
        values[last] = value

    return change


def _parsed(*changes: Change) -> Config:
    values = _values()
    for change in changes:
        change(values)
    return parse(values, "my.yaml")


def _refusal(*changes: Change) -> str:
    with pytest.raises(ConfigError) as caught:
        _parsed(*changes)
    return str(caught.value)


def _file(folder: Path, text: str, name: str = "my.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_the_committed_configurations_are_valid(name: str) -> None:
    assert load([ROOT / f"workflow/config/{name}.yaml"]).policies


@pytest.mark.parametrize("name", FILES)
def test_snakemake_validates_the_committed_configurations_with_the_schema(name: str) -> None:
    values = yaml.safe_load((ROOT / f"workflow/config/{name}.yaml").read_text())
    validate(values, str(ROOT / SCHEMA))


@pytest.mark.parametrize("name", FILES)
def test_a_committed_configuration_over_the_default_is_valid_too(name: str) -> None:
    load([ROOT / "workflow/config/config.yaml", ROOT / f"workflow/config/{name}.yaml"])


def test_the_smoke_run_measures_nothing() -> None:
    smoke = load([ROOT / "workflow/config/smoke.yaml"])
    assert (smoke.measured.enabled, smoke.profile.costs) == (False, "shipped")


def test_each_configuration_writes_to_folders_of_its_own() -> None:
    configs = [load([ROOT / f"workflow/config/{name}.yaml"]) for name in FILES]
    assert len({config.results.folder for config in configs}) == len(FILES)
    assert len({config.figures.folder for config in configs}) == len(FILES)


def test_the_committed_schema_is_that_of_the_keys() -> None:
    assert (ROOT / SCHEMA).read_text() == schema_text(), "run: python -m veltair.config --write-schema"


def test_the_committed_page_lists_the_keys_as_they_are() -> None:
    assert (ROOT / PAGE).read_text() == page_text(), "run: python -m veltair.config --write-schema"


def test_every_key_has_a_description_and_a_unit() -> None:
    bare = [
        path
        for path, field in key_paths(Config).items()
        if not field.description
        or not isinstance(field.json_schema_extra, dict)
        or not field.json_schema_extra["unit"]
    ]
    assert bare == []


def test_the_schema_is_a_valid_schema_that_refuses_unknown_keys_everywhere() -> None:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    groups = [schema, *(part for part in schema["$defs"].values() if "properties" in part)]
    assert all(group["additionalProperties"] is False for group in groups)


def test_keys_that_are_left_out_have_their_defaults() -> None:
    assert _parsed().select.slack == 1.5


def test_a_whole_number_serves_where_a_number_is_asked_for() -> None:
    assert _parsed(_set("models.net.qos_ms", 15)).models["net"].qos_ms == 15.0


@pytest.mark.parametrize("name", ["start", "resize", "grant", "join", "yield"])
def test_a_cost_of_blocks_is_a_number_or_the_measured_one(name: str) -> None:
    key = f"{name}_cost_us"
    for value in (0, 12.5, "measured"):
        assert getattr(_parsed(_set(f"simulated.{key}", value)).simulated, key) == value
    for value in (-1, "55", "measure"):
        assert f"simulated.{key}: {value!r} is refused" in _refusal(_set(f"simulated.{key}", value))


def test_the_default_run_charges_the_measured_costs_of_blocks_and_the_smoke_run_does_not() -> None:
    default, smoke = (load([ROOT / f"workflow/config/{name}.yaml"]).simulated for name in FILES[:2])
    assert (default.start_cost_us, default.join_cost_us) == ("measured", "measured")
    assert (smoke.start_cost_us, smoke.resize_cost_us, smoke.grant_cost_us) == (55.0, 5.0, 0.0)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        _parsed().preset = "paper"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("queries", 5, "queries: unknown key; did you mean `measured.queries`?"),
        ("simulated.querys", 5, "simulated.querys: unknown key; did you mean `queries`?"),
        ("models.net.qos_s", 1, "models.net.qos_s: unknown key; did you mean `qos_ms`?"),
        ("qos.zzz", 1, "qos.zzz: unknown key; known here: relax, satisfaction"),
        ("models.net.qos_ms", "15ms", "models.net.qos_ms: '15ms' is refused: it is not a number (write the"),
        (
            "models.net.qos_ms",
            0,
            "models.net.qos_ms: 0 is refused: it should be greater than 0; expected: lat",
        ),
        ("models.net.qos_ms", True, "models.net.qos_ms: True is refused: it is not a number"),
        ("models.net.qos_ms", float("inf"), "models.net.qos_ms: inf is refused: it is not a finite number"),
        ("oracle.tolerance", "1e-4", "'1e-4' is refused: it is text to YAML; write it with a point"),
        ("select.count", 9, "select.count: 9 is refused: it should be less than or equal to 8"),
        ("select.count", 2.5, "select.count: 2.5 is refused: it is not a whole number"),
        ("search.reuse", "no", "search.reuse: 'no' is refused: it is neither true nor false"),
        ("search", 5, "search: 5 is refused: it is not a group of keys with values"),
        ("simulated.seeds", 5, "simulated.seeds: 5 is refused: it is not a list"),
        ("simulated.seeds", [1, -1], "simulated.seeds[1]: -1 is refused: it should be greater than or equal"),
        ("profile.cores", [1, 1.5], "profile.cores: [1, 1.5] is refused; expected: core counts to profile"),
        (
            "profile.cores",
            "two",
            "profile.cores: 'two' is refused; expected: core counts to profile: all, or",
        ),
        ("profile.cores", [2, 1], "profile: cores [2, 1] must ascend"),
        ("profile.levels", [0.5, 1.0], "profile: levels [0.5, 1.0] must ascend from 0"),
        (
            "profile.costs",
            "guessed",
            "profile.costs: 'guessed' is refused: it should be 'measured' or 'shipped'",
        ),
        ("preset", "best", "preset: 'best' is refused: it should be 'paper' or 'tuned'"),
        (
            "policies.P",
            {"path": "no_colon"},
            "policies.P.path: 'no_colon' is refused: it does not have the form",
        ),
        ("policies.P", {}, "policies.P.path: is missing; expected: `module:Class` of the policy"),
        ("models.net.onnx", "a.onnx", "models.net: give `builder` or `onnx`, exactly one of them"),
        ("models.net.builder", None, "models.net: give `builder` or `onnx`, exactly one of them"),
        ("models.a/b", {"onnx": "a", "qos_ms": 1}, "models.a/b: the name is not made of letters"),
        ("workloads.mix.other", 1, "workloads.mix: 'other' is not in `models` (net); add it there"),
        ("workloads.mix.net", 0, "workloads.mix.net: 0 is refused: it should be greater than or equal to 1"),
        ("measured.workloads", ["nix"], "measured.workloads: 'nix' is not in `workloads` (mix)"),
        ("simulated.workloads", ["mix", "mix"], "simulated.workloads: 'mix' is listed 2 times; list it once"),
        ("profile.costs", "shipped", "measured.enabled: true, but profile.costs is 'shipped'"),
        ("engine.placement", "near", "engine.placement: 'near' is refused: it should be 'spread' or"),
        ("engine.interference", "none", "should be 'auto', 'perf', 'probe' or 'slowdown'"),
        ("engine.memory_mb", 0, "engine.memory_mb: 0 is refused: it should be greater than 0"),
        ("results.folder", "out/{run}", "results.folder: 'out/{run}': braces stand for names"),
        ("figures.folder", "~/figures", "figures.folder: '~/figures': `~` and variables mean something to a"),
        ("results.folder", "$SCRATCH/r", "results.folder: '$SCRATCH/r': `~` and variables mean something"),
        ("results.folder", "a\nb", "results.folder: 'a\\nb' is no path; write one with letters that"),
        ("results.folder", " ", "results.folder: ' ' is no path"),
        ("results.folder", "", "results.folder: '' is refused: it should "),
        ("models.net", {"onnx": "~/a.onnx", "qos_ms": 1}, "models.net.onnx: '~/a.onnx': `~` and variables"),
        ("models.net", {"onnx": "a\0.onnx", "qos_ms": 1}, "models.net.onnx: 'a\\x00.onnx' is no path"),
    ],
)
def test_a_mistake_is_named_with_its_key_its_value_and_what_is_expected(
    key: str, value: object, message: str
) -> None:
    found = _refusal(_set(key, value))
    assert found.startswith("my.yaml: ") and message in found


@pytest.mark.parametrize("key", [key for key in REPLACED_KEYS if key not in key_paths(Config)])
def test_a_key_of_an_earlier_version_says_what_replaced_it(key: str) -> None:
    assert f"\n  {key}: is no key any more: {REPLACED_KEYS[key]}" in _refusal(_set(key, 1))


@pytest.mark.parametrize("key", ["preset", "policies.Fifo.preset"])
def test_a_value_of_an_earlier_version_says_what_replaced_it(key: str) -> None:
    assert f"{key}: 'shipped' is refused: it is called `tuned` now; expected: " in _refusal(
        _set(key, "shipped")
    )


def test_one_mistake_is_reported_once() -> None:
    assert _refusal(_set("profile.cores", [1, 1.5])).startswith("my.yaml: 1 mistake\n")


def test_all_mistakes_are_reported_together() -> None:
    message = _refusal(_set("select.count", 9), _set("select.slack", 0))
    assert message.startswith("my.yaml: 2 mistakes\n")
    assert "select.count: 9" in message and "select.slack: 0" in message


def test_a_run_that_would_do_nothing_is_refused() -> None:
    assert "both are false" in _refusal(_set("measured.enabled", False), _set("simulated.enabled", False))


@given(st.text(alphabet="abcdefgqos_ms", min_size=1).filter(lambda name: name not in Config.model_fields))
def test_no_unknown_key_is_taken(name: str) -> None:
    assert f"{name}: unknown key" in _refusal(_set(name, 1))


def test_later_files_go_over_earlier_ones_key_by_key(tmp_path: Path) -> None:
    under = _file(
        tmp_path, yaml.safe_dump(_values() | {"simulated": {"queries": 5, "drain_qos": 3}}), "a.yaml"
    )
    over = _file(tmp_path, "simulated: {queries: 7, seeds: [4]}", "b.yaml")
    merged = load([under, over]).simulated
    assert (merged.queries, merged.seeds, merged.drain_qos) == (7, (4,), 3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key `a` is there twice; keep one of them"),
        ("models:\n  no: 1\n", "line 2: the key `no` is not text; put it in quotes"),
        ("a: [1\n", "is not valid YAML"),
        ("- a\n", "holds list, not keys with values"),
        ("", "holds NoneType, not keys with values"),
        ("a: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    ],
)
def test_a_file_that_holds_no_keys_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([_file(tmp_path, text)])
    assert str(tmp_path / "my.yaml") in str(caught.value) and message in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read .*; name an existing YAML file"):
        load([tmp_path / "none.yaml"])


def test_no_file_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no configuration file was given"):
        load([])


OWN_BUILDERS = {
    "own_broken": "def f(:\n",
    "own_download": "raise OSError('no network')\n",
    "own_exit": "raise SystemExit(0)\n",
    "own_needy": "def f(size):\n    return size\n",
}


def _problems(*changes: Change, check: checks.PolicyCheck = lambda path, options, preset: None) -> str:
    with pytest.raises(ConfigError) as caught:
        checks.check_environment(_parsed(*changes), check)
    return str(caught.value)


def test_what_fits_this_machine_passes() -> None:
    checks.check_environment(_parsed(), lambda path, options, preset: None)


def test_the_policy_check_gets_path_and_options_of_every_policy() -> None:
    seen: list[tuple[str, Mapping[str, object]]] = []
    config = _parsed(_set("policies.B", {"path": "b:B", "options": {"alpha": 0.8}}))
    checks.check_environment(config, lambda path, options, preset: seen.append((path, options)))
    assert seen == [("somewhere:Fifo", {}), ("b:B", {"alpha": 0.8})]


@pytest.mark.parametrize("error", [ImportError, AttributeError, LookupError, TypeError, ValueError, OSError])
def test_a_policy_that_cannot_be_used_is_named(error: type[Exception]) -> None:
    def check(path: str, options: Mapping[str, object], preset: str) -> None:
        raise error(f"{path} has no allocate")

    assert "policies.Fifo: " in _problems(check=check) and "has no allocate" in _problems(check=check)


def test_an_onnx_file_that_is_not_there_is_named() -> None:
    model = {"onnx": "nowhere/net.onnx", "qos_ms": 10}
    assert "models.net.onnx: there is no file 'nowhere/net.onnx'" in _problems(_set("models.net", model))


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("models.resnet51:f", "'models.resnet51' of 'models.resnet51:f' does not import"),
        ("models.resnet50:f", "module 'models.resnet50' has no 'f'"),
        ("models.resnet50:QOS_MS", "'models.resnet50:QOS_MS' is not a function"),
        ("own_broken:f", "'own_broken' of 'own_broken:f' does not import (SyntaxError: "),
        ("own_download:f", "'own_download' of 'own_download:f' does not import (OSError: no network)"),
        ("own_exit:f", "'own_exit' of 'own_exit:f' does not import (SystemExit: 0)"),
        ("own_needy:f", "'own_needy:f' is called without arguments: missing a required argument: 'size'"),
    ],
)
def test_a_builder_that_cannot_be_called_is_named(
    builder: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in OWN_BUILDERS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert f"models.net.builder: {message}" in _problems(_set("models.net.builder", builder))


def test_a_builder_of_which_nothing_is_known_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checks.inspect, "signature", lambda builder: (_ for _ in ()).throw(ValueError("none"))
    )
    config = _parsed(_set("models.net.builder", "models.resnet50:resnet50"))
    checks.check_environment(config, lambda path, options, preset: None)


@pytest.mark.parametrize("key", ["results.folder", "figures.folder"])
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("{tmp}/file/out", "cannot be made, for {tmp}/file is no folder"),
        ("/proc/out", "cannot be written into"),
    ],
)
def test_a_folder_that_nothing_can_be_written_into_is_named(
    key: str, folder: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    folder, message = (text.replace("{tmp}", str(tmp_path)) for text in (folder, message))
    assert f"{key}: '{folder}' {message}" in _problems(_set(key, folder))


def test_kernels_cannot_run_from_a_folder_that_is_mounted_noexec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    noexec = os.statvfs_result((*real[:8], real.f_flag | os.ST_NOEXEC, *real[9:]))
    monkeypatch.setattr(os, "statvfs", lambda path: noexec)
    assert "results.folder: 'results' is on a file system mounted noexec" in _problems()
    simulated = _set("profile.costs", "shipped"), _set("measured.enabled", False)
    checks.check_environment(_parsed(*simulated), lambda path, options, preset: None)


def test_more_cores_than_this_machine_gives_are_refused() -> None:
    cores = len(os.sched_getaffinity(0))
    message = _problems(_set("profile.cores", [1, cores + 1]))
    assert f"profile.cores: {cores + 1} cores, but this machine gives {cores}" in message


def test_more_cores_than_this_machine_has_are_fine_with_shipped_costs() -> None:
    changes = _set("profile", {"costs": "shipped", "cores": [4096]}), _set("measured.enabled", False)
    checks.check_environment(_parsed(*changes), lambda path, options, preset: None)


def test_a_machine_that_is_not_described_is_named() -> None:
    assert "simulated.machines: 'cray-1' is not described" in _problems(
        _set("simulated.machines", ["cray-1"])
    )


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "gcc was not found" in _problems()


def test_every_problem_with_this_machine_is_listed_at_once() -> None:
    changes = _set("simulated.machines", ["cray-1"]), _set("models.net.builder", "nowhere:f")
    assert len(_problems(*changes).splitlines()) == 3


def test_the_program_prints_a_configuration_that_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(_file(tmp_path, yaml.safe_dump(_values())))])
    assert status == 0 and parse(yaml.safe_load(capsys.readouterr().out)) == _parsed()


def test_the_program_ends_with_status_2_for_one_that_it_refuses(tmp_path: Path) -> None:
    path = _file(tmp_path, "a: 1\n")
    command = [sys.executable, "-m", "veltair.config", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {path}: ") and done.stdout == ""


def test_the_program_writes_schema_and_page_from_the_repository_s_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (SCHEMA, PAGE):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert main(["--write-schema"]) == 0
    assert (tmp_path / SCHEMA).read_text() == schema_text() and (tmp_path / PAGE).read_text() == page_text()


def test_a_search_over_rpc_needs_the_tracker_and_the_key() -> None:
    assert "rpc.host or rpc.key is not given" in _refusal(_set("search.runner", "rpc"))
    rpc = {"host": "there", "key": "zen3"}
    assert _parsed(_set("search.runner", "rpc"), _set("search.rpc", rpc)).search.rpc.port == 9190


def test_a_batch_larger_than_the_population_is_refused() -> None:
    refused = _refusal(_set("search.batch", 64), _set("search.population", 32))
    assert "population 32 is below batch 64" in refused


def test_colours_go_to_policies_that_there_are() -> None:
    assert "figures.styles: 'Other' is not in `policies`" in _refusal(_set("figures.styles", ["Other"]))


def test_a_family_is_of_policies_that_there_are_and_each_is_in_one() -> None:
    refused = _refusal(_set("figures.families", {"mine": ["Other"]}))
    assert "figures.families.mine: 'Other' is not in `policies`" in refused
    known = next(iter(_parsed().policies))
    refused = _refusal(_set("figures.families", {"mine": [known], "yours": [known]}))
    assert f"figures.families: '{known}' is listed 2 times; list it once" in refused


def test_every_policy_of_the_comparison_of_schedulers_takes_its_options_and_belongs_to_a_family() -> None:
    config = load([ROOT / f"workflow/config/{name}.yaml" for name in ("many_core", "schedulers")])
    for policy in config.policies.values():
        check_policy(policy.path, policy.options, policy.preset or config.preset)
    families = [name for members in config.figures.families.values() for name in members]
    assert sorted(families) == sorted(config.policies)
    assert set(config.compared or ()) <= set(config.policies)


def test_the_comparison_of_schedulers_has_every_policy_of_the_repository() -> None:
    config = load([ROOT / f"workflow/config/{name}.yaml" for name in ("many_core", "schedulers")])
    listed = {policy.path for policy in config.policies.values()}
    ablations = {"baselines.fixed_version:FixedVersionBlocks", "baselines.fixed_version:FixedVersionElastic"}
    page = (ROOT / "docs/policies.md").read_text()
    assert set(re.findall(r"^\| `([\w.]+:\w+)`", page, re.MULTILINE)) - ablations <= listed


@pytest.mark.parametrize("batches", [[2, 4], [1, 4, 2], [1, 1]])
def test_batches_ascend_from_one(batches: list[int]) -> None:
    changes = _set("models.net.batches", batches), _set("measured.enabled", False)
    assert f"batches {batches} must ascend from 1, such as [1, 2, 4, 8]" in _refusal(*changes)


@pytest.mark.parametrize("built", [[4], [2, 1], [4, 2]])
def test_built_batches_ascend_and_are_among_the_batches(built: list[int]) -> None:
    refused = _refusal(_set("models.net.batches", [1, 2]), _set("models.net.built_batches", built))
    assert "built_batches" in refused


def test_what_is_built_of_a_model_has_names_of_its_own() -> None:
    alone = _set("measured.enabled", False)
    batches = _set("models.net.batches", [1, 2, 4]), _set("models.net.built_batches", [4])
    config = _parsed(alone, *batches)
    assert config.networks() == {"net": ("net", 1), "net-x4": ("net", 4)}
    other = _set("models.net-x4", config.models["net"].model_dump(mode="json") | {"built_batches": []})
    assert "models.net-x4: models.net.built_batches has 4" in _refusal(alone, *batches, other)


def test_batches_are_built_only_where_something_is_profiled() -> None:
    changes = _set("models.net.batches", [1, 2]), _set("models.net.built_batches", [2])
    shipped = _set("profile.costs", "shipped"), _set("measured.enabled", False)
    assert "models.net.built_batches: [2], but profile.costs is 'shipped'" in _refusal(*changes, *shipped)


def test_batches_are_refused_where_anything_is_measured() -> None:
    assert (
        "models.net.batches: [1, 2], but measured.enabled is true, and the engine serves one query"
        in _refusal(_set("models.net.batches", [1, 2]))
    )
    found = _parsed(_set("models.net.batches", [1, 2]), _set("measured.enabled", False))
    assert found.models["net"].batches == (1, 2)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ([_set("measured.enabled", True)], ["Fifo", "B"]),
        ([_set("measured.enabled", True), _set("compared", ["B"])], ["B"]),
        ([_set("measured.enabled", False)], []),
    ],
)
def test_a_policy_that_cannot_be_measured_is_refused_where_it_is_to_be(
    changes: list[Change], refused: list[str]
) -> None:
    config = _parsed(_set("policies.B", {"path": "b:B"}), *changes)
    found = ""
    try:
        checks.check_environment(
            config, lambda path, options, preset: None, lambda path: f"{path} shares cores"
        )
    except ConfigError as error:
        found = str(error)
    assert (
        re.findall(r"policies.(\w+): \S+ cannot be measured: \S+ shares cores; take it out", found) == refused
    )
