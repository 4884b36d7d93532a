import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.service.hostile_models import HOSTILE, plain
from veltair.service.keys.builder_keys import BuilderKeys
from veltair.service.models.builder import Builder, Built
from veltair.service.models.registry import State
from veltair.service.models.store import Store, check_seal, place_of

PLACE = place_of("shop", "a" * 64)
BEGIN = """
import json, os, sys, time
from pathlib import Path
order = json.loads(sys.stdin.readline())
folder = Path(order["folder"])
def say(**said):
    print(json.dumps(said), flush=True)
def built():
    for name, text in (("build/kernels.so", "code"), ("build/plan.json", "{}"), ("tables/costs", "1")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    say(done="READY")
"""
CONFINED = """
from veltair.service.keys.builder_keys import BuilderKeys
from veltair.service.models.sandbox import confine
confine(BuilderKeys.model_validate_json(json.dumps(order["keys"])))
"""


def build(
    tmp_path: Path, script: str, content: bytes = b"model", **keys: Any
) -> tuple[Built, list[State], Store]:
    store = Store(tmp_path / "store")
    incoming = store.incoming()
    incoming.write_bytes(content)
    store.keep(incoming, PLACE)
    states: list[State] = []
    program = (sys.executable, "-c", BEGIN + script) if script else None
    others = {} if program is None else {"program": program}
    made = Builder(
        store, BuilderKeys(**keys), tmp_path / "machine", tmp_path / "native", tmp_path / "logs", **others
    )
    return asyncio.run(made.build(PLACE, states.append)), states, store


def test_what_is_built_is_published_under_a_seal_and_the_workplace_is_gone(tmp_path: Path) -> None:
    script = "for state in ('CHECKING', 'COMPILING', 'PROFILING'): say(state=state)\nbuilt()"
    ended, states, store = build(tmp_path, script)
    assert ended.reason == ""
    assert ended.seconds > 0
    assert states == [State.CHECKING, State.COMPILING, State.PROFILING]
    check_seal(store.folder(PLACE))
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_a_refusal_is_passed_on_as_one_short_line(tmp_path: Path) -> None:
    ended, _, store = build(tmp_path, r"say(refused='a\n\x1b[2Jb ' + 'c' * 900)")
    assert ended.reason.startswith("a ?[2Jb ccc")
    assert len(ended.reason) < 510
    assert not store.is_built(PLACE)


def test_states_that_do_not_follow_each_other_are_not_believed(tmp_path: Path) -> None:
    said = "".join(f"say(state={state!r})\n" for state in ("READY", "PROFILING", "CHECKING", 7))
    script = f"{said}print('[[', flush=True)\nbuilt()"
    ended, states, _ = build(tmp_path, script)
    assert (ended.reason, states) == ("", [State.CHECKING])


@pytest.mark.parametrize(
    ("script", "keys", "said"),
    [
        ("time.sleep(60)", {"seconds": 0.3}, "builder.seconds"),
        ("print('x' * 100_000, flush=True); time.sleep(60)", {}, "said more than it may"),
        ("sys.exit(3)", {}, "without a word"),
        ("os.kill(os.getpid(), 11)", {}, "without a word"),
        (CONFINED + "x = bytearray(2_000_000_000)", {"memory_mb": 1_000.0}, "without a word"),
        (CONFINED + "while True: pass", {"cpu_seconds": 1.0}, "builder.cpu_seconds"),
        (
            CONFINED + "(folder / 'f').write_bytes(bytes(2_000_000))",
            {"file_mb": 1.0},
            "without a word|file_mb",
        ),
        (CONFINED + "files = [open('/dev/null') for _ in range(99)]", {"open_files": 64}, "without a word"),
        ("say(done='READY')", {}, "not whole"),
    ],
)
def test_a_build_that_uses_too_much_or_dies_ends_with_a_reason(
    script: str, keys: dict[str, float], said: str, tmp_path: Path
) -> None:
    ended, _, store = build(tmp_path, script, **keys)
    assert ended.reason
    assert re.search(said, ended.reason), ended.reason
    assert str(tmp_path) not in ended.reason
    assert not store.is_built(PLACE)
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_what_a_build_has_started_ends_with_it(tmp_path: Path) -> None:
    script = f"""
child = os.fork()
if not child:
    time.sleep(60)
Path({str(tmp_path / "child")!r}).write_text(str(child))
time.sleep(60)
"""
    build(tmp_path, script, seconds=0.5)
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
    raise AssertionError("the child lives")


def test_the_operators_secrets_are_not_the_builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_TOKEN", "secret")
    ended, _, _ = build(tmp_path, "say(refused=' '.join(sorted(os.environ)) + ' ' + os.environ['HOME'])")
    assert "OPERATOR_TOKEN" not in ended.reason
    assert str(tmp_path / "store" / "incoming") in ended.reason


def test_a_build_has_no_network_where_the_system_allows_that(tmp_path: Path) -> None:
    script = CONFINED.replace("confine(Buil", "alone = confine(Buil") + (
        "say(refused='%s %s' % (alone, sorted(one.name for one in Path('/sys/class/net').iterdir())"
        " if not alone else __import__('socket').if_nameindex()))"
    )
    ended, _, _ = build(tmp_path, script)
    assert ended.reason.startswith("False") or ended.reason == "True [(1, 'lo')]"


@pytest.mark.long
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_by_the_real_builder(name: str, tmp_path: Path) -> None:
    content, _ = HOSTILE[name]()
    ended, _, store = build(tmp_path, "", content)
    assert ended.reason
    assert str(tmp_path) not in ended.reason
    assert not store.is_built(PLACE)


@pytest.mark.long
def test_a_plain_model_is_built_for_this_machine(tmp_path: Path) -> None:
    from veltair.machine.steps import measure_machine  # noqa: PLC0415

    measure_machine(tmp_path / "native", tmp_path / "machine")
    ended, states, store = build(tmp_path, "", plain().SerializeToString())
    assert (ended.reason, states) == ("", [State.CHECKING, State.COMPILING, State.PROFILING])
    check_seal(store.folder(PLACE))
