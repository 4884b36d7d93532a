import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from veltair.__main__ import main
from veltair.service import serve
from veltair.service.keys.service_keys import LOCAL, ServiceKeys, read_service
from veltair.service.serve import TOKEN, StartError, _with_tenant
from veltair.service.tenancy.tenants import Tokens

ROOT = Path(__file__).parents[2]


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def refused(place: Path, capsys: pytest.CaptureFixture[str], **keys: Any) -> str:
    """Return the one error of a service that cannot be started, in which no process was."""
    keys = {"http": "127.0.0.1:0", "folder": str(place / "kept"), **keys}
    (place / "service.yaml").write_text(yaml.safe_dump({"service": keys}))
    assert main(["serve", "--config", str(place / "service.yaml")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    return said.err


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_Processes", None)


def test_a_port_in_use_is_named(tmp_path: Path, taken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"cannot listen on {taken}" in refused(tmp_path, capsys, http=taken)


@pytest.mark.parametrize("http", ["127.0.0.1:99999", "no.such.host.invalid:80"])
def test_an_address_that_is_none_is_named(
    http: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"cannot listen on {http}" in refused(tmp_path, capsys, http=http)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"polcy": {}}, "service.polcy: unknown key; did you mean `policy`?"),
        ({"policy": {"path": "baselines.planaria:Planria"}}, "has no class Planria"),
        ({"policy": {"path": "no_such_module:Policy"}}, "importing no_such_module failed"),
        ({"policy": {"path": "baselines.planaria:Planaria", "options": {"speed": 1}}}, "no option speed"),
        ({"policy": {"path": "Planaria"}}, "service.policy.path"),
        ({"http": "8000"}, "service.http"),
        ({"memory_mb": 0}, "service.memory_mb"),
        ({"models": [{"name": "net"}]}, "both or neither of `onnx` and `builder`"),
        ({"models": [{"name": "net", "onnx": "absent.onnx"}]}, "absent.onnx, of net, cannot be read"),
        ({"models": [{"name": "net", "onnx": "."}]}, "., of net, cannot be read"),
        ({"models": [{"name": "net", "builder": "models.graph:absent"}]}, ":absent, of net, failed"),
        ({"models": [{"name": "net", "onnx": "x", "tenant": "shop"}]}, "which is not one of local"),
        ({"tenants": [{"name": "shop", "token_sha256": "abc"}]}, "service.tenants[0].token_sha256"),
        ({"folder": __file__}, "cannot be written"),
        ({"folder": "/proc/kept"}, "/proc/kept cannot be written"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)  # fmt: skip
def test_what_cannot_be_started_is_one_clear_error(
    keys: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(tmp_path, capsys, **keys)


@pytest.mark.parametrize("text", ["", "- 1", "service: [", "service:\n  http: 1\n  http: 2"])
def test_a_file_that_is_no_configuration_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    assert main(["serve", "--config", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: No such file" in capsys.readouterr().err


def test_the_token_of_the_local_tenant_is_kept_and_only_this_user_reads_it(tmp_path: Path) -> None:
    keys, file = _with_tenant(ServiceKeys(), tmp_path)
    again, _ = _with_tenant(ServiceKeys(), tmp_path)
    assert keys == again
    assert stat.S_IMODE((tmp_path / TOKEN).stat().st_mode) == 0o600
    found = Tokens(keys.tenants).tenant_of(f"Bearer {Path(file).read_text()}")
    assert found is not None
    assert found.name == LOCAL


def test_the_example_is_a_service_with_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (model,) = read_service(ROOT / "service.yaml").models
    assert (model.tenant, serve._model_file(model)) == (LOCAL, None)


@pytest.mark.parametrize("page", ["service.md", "service-tenants.md"])
def test_the_configuration_of_the_page_is_one(page: str, tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert found is not None
    text = found[1].replace("…", "0" * 64)
    (tmp_path / "service.yaml").write_text(text)
    serve._check_policy(read_service(tmp_path / "service.yaml"))


def test_a_policy_that_is_only_simulated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "simulated_only", lambda _: "it shares cores")
    with pytest.raises(StartError, match="it shares cores"):
        serve._check_policy(ServiceKeys())
