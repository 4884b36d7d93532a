"""Any path, options and module as a policy: it can be made, or is refused with its path and the reason."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.support.builders import linear_context
from tests.support.fuzz import INPUTS, ODD_TEXTS, ODD_VALUES, fuzz
from veltair.serving.policies.presets import check_policy, make_policy

CONTEXT = linear_context([0.001] * 2, cores=(1, 2))
KNOWN = [
    *("baselines.planaria:Planaria", "baselines.fcfs_min:FcfsMin", "baselines.fixed_blocks:FixedBlocks"),
    *("baselines.parties:Parties", "baselines.static:Static", "baselines.streams:Streams"),
    *("veltair.serving.policies.adaptive:VeltairFULL", "baselines.prema:Prema", "baselines.dart:Dart"),
]
ODD_PATHS = [
    "",
    ":",
    "a:",
    ":A",
    "a:b:c",
    "os:path",
    "os:getcwd",
    "json:JSONDecoder",
    "a..b:C",
    "baselines:Nobody",
]
OPTIONS = [
    "alpha",
    "order",
    "conflict",
    "drop_late",
    "layers",
    "streams",
    "sizes",
    "warm_up_s",
    "growth",
    "versions",
]
# What a module of a user may be.
PIECES = [
    "import nowhere_at_all\n",
    "raise OSError('no network')\n",
    "raise SystemExit(3)\n",
    "class P:\n    pass\n",
    "class P:\n    allocate = None\n",
    "class P:\n    def allocate(self, snapshot): return []\n",
    "class P:\n    def __init__(self): pass\n    def allocate(self, snapshot): return []\n",
    "class P:\n    def __init__(self, context, alpha: 'Nowhere'): pass\n    def allocate(self, s): ...\n",
    "class P:\n    def __init__(self, context, *, alpha: float): pass\n    def allocate(self, s): ...\n",
    "class P:\n    def __init__(self, context, **options): raise ValueError('no')\n    allocate = len\n",
    "P = 5\n",
    "def P(context): return None\n",
    "from baselines.planaria import Planaria as P\n",
    "x = (\n",
    "\x00",
    "P = type('P', (), {'allocate': len, '__init__': property(lambda self: 1 / 0)})\n",
]


def take(path: str, options: dict[str, Any], preset: str) -> None:
    try:
        check_policy(path, options, preset)
        policy = make_policy(path, CONTEXT, preset, options)
    except (ValueError, LookupError) as error:
        assert str(error)
    else:
        assert callable(policy.allocate)


PRESETS = st.sampled_from(["paper", "tuned", "paper", "tuned", "shipped", ""])


@INPUTS
def test_any_option_of_a_policy_is_taken_or_refused(inputs: int) -> None:
    options = st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=4), ODD_VALUES, max_size=3)
    fuzz(inputs, st.tuples(st.sampled_from(KNOWN), options, PRESETS), lambda given: take(*given))


@INPUTS
def test_any_path_is_a_policy_or_refused(inputs: int) -> None:
    paths = (
        st.sampled_from([*KNOWN, *ODD_PATHS, *ODD_TEXTS])
        | st.text(max_size=12)
        | st.builds(
            "{}:{}".format, st.sampled_from(["os", "json", "baselines.prema", "nowhere"]), st.text(max_size=6)
        )
    )
    fuzz(inputs, st.tuples(paths, st.just({}), PRESETS), lambda given: take(*given))


@INPUTS
def test_any_module_of_a_user_is_a_policy_or_refused(
    inputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def take_module(pieces: list[str]) -> None:
        sys.modules.pop("users_own", None)
        (tmp_path / "users_own.py").write_text("".join(pieces))
        importlib.invalidate_caches()
        take("users_own:P", {"alpha": 0.5}, "paper")

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    fuzz(inputs, st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), take_module)
