from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.core_use import CoreUse
from veltair.evaluation.measurement.rounds import Attempt, Rounds, ServedSlot, attempt_rows, kept_records
from veltair.evaluation.measurement.run_quality import RunQuality
from veltair.evaluation.measurement.slots import Grid, Slot

GRID = Grid((0.5, 1.0), 10.0, seed=3)
SLOT_S = 2.0
Problem = Callable[[Slot, int], str]  # of a server's n-th try at a slot


class Clock:
    """A clock that only slots move."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Fake:
    """Serves slots, some of them with a problem; it notes which."""

    def __init__(self, name: str, clock: Clock, log: list[str], problem: Problem = lambda *_: "") -> None:
        self.name, self.clock, self.log, self.problem = name, clock, log, problem
        self.tries: dict[Slot, int] = {}
        self.folders: list[Path] = []

    def serve(self, slot: Slot, folder: Path) -> ServedSlot:
        self.clock.now_s += SLOT_S
        self.log.append(f"{self.name} {slot.round} {slot.share}")
        self.folders.append(folder)
        number = self.tries[slot] = self.tries.get(slot, -1) + 1
        frame = pd.DataFrame(
            {"policy": [self.name], "seed": [slot.seed], "counted": [True], "on_time": [True]}
        )
        return ServedSlot(frame, RunQuality(self.problem(slot, number), use=CoreUse(0.01, 0.0)))


def measure(
    seconds: float, *problems: Problem, folder: Path = Path("there")
) -> tuple[list[Attempt], list[str], list[Fake]]:
    """Measure a server for each kind of problem; return all tries, and who served in which order."""
    clock, log = Clock(), list[str]()
    fakes = [Fake("ABC"[index], clock, log, problem) for index, problem in enumerate(problems)]
    attempts = Rounds(GRID, seconds, folder, clock).measure({fake.name: fake for fake in fakes})
    return attempts, log, fakes


def fine(slot: Slot, number: int) -> str:
    return ""


def first_try_late(slot: Slot, number: int) -> str:
    return "late" if number == 0 else ""


def late_in_round_1(slot: Slot, number: int) -> str:
    return "late" if (slot.round, slot.share) == (1, 0.5) else ""


ROUND_S = 2 * 2 * SLOT_S  # of two servers


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0.0, 3), (3 * ROUND_S, 3), (4.5 * ROUND_S, 4), (5 * ROUND_S, 5)]
)
def test_there_are_as_many_whole_rounds_as_the_time_holds_and_three_at_least(
    seconds: float, rounds: int
) -> None:
    attempts, _, _ = measure(seconds, fine, fine)
    assert {attempt.slot.round for attempt in attempts} == set(range(rounds))
    assert len(attempts) == 4 * rounds


def test_servers_take_turns_in_the_order_of_the_grid() -> None:
    _, log, _ = measure(0.0, fine, fine)
    wanted = [
        f"{name} {slot.round} {slot.share}"
        for number in range(3)
        for slot, order in GRID.round(number, ["A", "B"])
        for name in order
    ]
    assert log == wanted


def test_who_was_disturbed_tries_again_once_the_others_are_through() -> None:
    attempts, log, _ = measure(1000.0, first_try_late, fine)
    first = [entry for entry in log if entry.split()[1:] == log[0].split()[1:]]
    assert sorted(first[:2]) == [f"A {first[0][2:]}", f"B {first[0][2:]}"]
    assert first[2].startswith("A")
    assert len(first) == 3
    slot = attempts[0].slot
    kept = {(one.server, one.number): one.kept for one in attempts if one.slot == slot}
    assert kept == {("A", 0): False, ("B", 0): True, ("A", 1): True}


def test_a_slot_in_which_one_is_disturbed_three_times_is_left_out_for_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    attempts, _, _ = measure(1000.0, late_in_round_1, fine)
    there = [one for one in attempts if (one.slot.round, one.slot.share) == (1, 0.5)]
    assert [one.server for one in there].count("A") == 3
    assert [one.kept for one in there] == [False] * 4
    assert all(one.kept for one in attempts if one not in there)
    assert "round 1, 0.5 of the sequential rate (5 QPS): left out for all, as A" in capsys.readouterr().out


def test_nothing_is_repeated_once_time_is_up() -> None:
    attempts, _, _ = measure(0.0, first_try_late, fine)
    assert len(attempts) == 12
    assert not any(one.kept for one in attempts)


def test_a_loadgen_that_fails_is_a_disturbance() -> None:
    class Failing(Fake):
        def serve(self, slot: Slot, folder: Path) -> ServedSlot:
            served = super().serve(slot, folder)
            if self.tries[slot] == 0:
                raise LoadGenError("LoadGen hangs")
            return served

    clock = Clock()
    attempts = Rounds(GRID, 1000.0, Path("there"), clock).measure({"A": Failing("A", clock, [])})
    assert attempts[0].served.quality.problem == "LoadGen hangs"
    assert sum(one.kept for one in attempts) == len(attempts) / 2
    assert len(kept_records(attempts)) == len(attempts) / 2


def test_any_other_error_ends_the_measurement() -> None:
    def broken(slot: Slot, number: int) -> str:
        raise RuntimeError("a kernel hangs")

    with pytest.raises(RuntimeError, match="a kernel hangs"):
        measure(1000.0, broken)


def test_every_try_has_a_folder_of_its_own(tmp_path: Path) -> None:
    _, _, fakes = measure(200.0, first_try_late, fine, folder=tmp_path)
    folders = [folder for fake in fakes for folder in fake.folders]
    assert len(set(folders)) == len(folders)
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


def test_records_are_those_of_the_slots_that_count() -> None:
    attempts, _, _ = measure(1000.0, late_in_round_1, first_try_late)
    kept = kept_records(attempts)
    assert len(kept) == sum(one.kept for one in attempts)
    left_out = next(one.slot.seed for one in attempts if (one.slot.round, one.slot.share) == (1, 0.5))
    assert left_out not in set(kept["seed"])


def test_a_measurement_that_kept_nothing_is_an_error() -> None:
    attempts, _, _ = measure(0.0, lambda slot, number: "late")
    with pytest.raises(RuntimeError, match="no slot could be measured"):
        kept_records(attempts)


def test_each_try_is_told_with_its_slot_and_how_well_it_was_measured() -> None:
    attempts, _, _ = measure(1000.0, first_try_late)
    row = attempt_rows(attempts)[0]
    assert (row["policy"], row["attempt"], row["kept"], row["problem"]) == ("A", 0, False, "late")
    assert (row["qps"], row["seed"]) == (10.0 * row["share"], attempts[0].slot.seed)
    assert (row["queries"], row["others_share"]) == (1, 0.01)
    assert "1 counted queries, 100.0% on time, issue delay p99 0.00 ms, others 1.0%" in str(
        attempts[0].served
    )
