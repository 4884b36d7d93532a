"""Replaying the log of a live run: the same loop in C and the same policy, fed with what happened then."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from veltair.machine.c_library import CLibrary
from veltair.serving.engine.log_entries import Entry, EntryKind, LogReader
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.deciders import decider_of

Decision = tuple[object, ...]
"""What was decided, in words, then its numbers: so that two of them can be compared and printed."""

_EVENTS = {
    EntryKind.ARRIVED: "ARRIVAL",
    EntryKind.BLOCK_ENDED: "BLOCK_END",
    EntryKind.CORES_ADOPTED: "RESIZED",
    EntryKind.WAKE_CAME: "WOKEN",
    EntryKind.DUE: "CLOSED",
    EntryKind.WITHDRAWN_BY_CLIENT: "WITHDRAWN",
}
_DECISIONS = (
    EntryKind.BLOCK_STARTED,
    EntryKind.BLOCK_RESIZED,
    EntryKind.BLOCK_YIELDS,
    EntryKind.WAKE_SET,
)


def first_difference(log: bytes, policy: Policy, context: Context, library: CLibrary) -> str:
    """Return where the policy, asked again, first decides otherwise than the log says; "" if nowhere.

    Raises ValueError for a log that is cut short, or in which the models change, and what the policy raises.
    """
    replay = _Replay(policy, context, library)
    for event, decided, logged in _turns(LogReader(library).entries(log)):
        if (mine := replay.decide(event, decided)) != (theirs := [_logged(entry) for entry in logged]):
            first = next(
                (pair for pair in zip(theirs, mine, strict=False) if pair[0] != pair[1]),
                (theirs[len(mine) :] or "nothing more", mine[len(theirs) :] or "nothing more"),
            )
            return (
                f"at {event.time_s:.6f} s, after {event.kind.name} of query {event.id}: "
                f"the log has {first[0]}, the replay {first[1]}"
            )
    return ""


def _turns(entries: Iterator[Entry]) -> Iterator[tuple[Entry, Entry | None, Sequence[Entry]]]:
    """Yield each event, what was read for the decision that followed, if one did, and what was decided."""
    event: Entry | None = None
    decided: Entry | None = None
    logged: list[Entry] = []
    for entry in entries:
        if entry.kind is EntryKind.CHANGED:
            raise ValueError("the models changed during this run; only runs of the same models are replayed")
        if entry.kind in _EVENTS:
            if event is not None:
                yield event, decided, logged
            event, decided, logged = entry, None, []
        elif entry.kind is EntryKind.DECIDED:
            decided = entry
        elif entry.kind in _DECISIONS:
            logged.append(entry)
    if event is not None and (decided is not None or event.kind is EntryKind.DUE):
        yield event, decided, logged


def _logged(entry: Entry) -> Decision:
    if entry.kind is EntryKind.BLOCK_STARTED:
        asked = entry.cores, entry.wanted, entry.seconds
        return "start", entry.id, entry.first, entry.layer, *asked, entry.versions
    if entry.kind is EntryKind.BLOCK_RESIZED:
        return "resize", entry.id, entry.cores, entry.versions
    return ("yield", entry.id) if entry.kind is EntryKind.BLOCK_YIELDS else ("wake", entry.seconds)


class _Replay:
    """The loop in C over a backend that does nothing and says what the log says."""

    def __init__(self, policy: Policy, context: Context, library: CLibrary) -> None:
        self._decider = decider_of(policy, context, library)
        self._models = list(context.models.values())
        self._library, self._ffi, self._functions = library, library.ffi, library.functions
        self._pressure, self._ended = 0.0, np.zeros(context.machine.cores, np.int32)
        self._slots: dict[int, int] = {}
        self._backend = self._make_backend()
        layers = np.array([len(model.layers) for model in self._models], np.int32)
        cores = context.machine.cores
        run = {"layers": library.pointer(layers), "cores": cores, "slots": cores}
        self._kept = layers, self._ffi.new("char[]", 1)
        loop = self._functions.loop_new(self._backend, self._decider.decider, self._ffi.new("run_t *", run))
        self._loop = self._ffi.gc(loop, self._functions.loop_free)

    def decide(self, entry: Entry, decided: Entry | None) -> list[Decision]:
        """Enter an event, decide with the readings of the log, and return the decisions, done."""
        functions = self._functions
        what = functions.loop_enter(self._loop, self._event(entry))
        functions.loop_take_records(self._loop)
        if decided is None or what != functions.OK:
            return []
        self._take_readings(decided)
        what = functions.loop_decide(self._loop)
        if self._decider.error is not None:
            raise self._decider.error
        if what != functions.OK:
            raise RuntimeError(f"the decision at {entry.time_s} s cannot be made again: code {what}")
        commands = functions.loop_commands(self._loop)
        items = [commands.items[index] for index in range(commands.count)]
        decisions = [one for item in items if (one := self._decision(item)) is not None]
        started = [item.account for item in items if item.kind == functions.START]
        functions.loop_apply(self._loop)
        functions.loop_take_records(self._loop)
        self._slots |= {account.id: account.slot for account in started}
        return decisions

    def _event(self, entry: Entry) -> Any:
        event = {
            "kind": getattr(self._functions, _EVENTS[entry.kind]),
            "time_s": entry.time_s,
            "id": entry.id,
            "model": entry.model,
            "slot": self._slots.get(entry.id, 0),
            "next_layer": entry.layer,
            "cores": entry.cores,
            "target_s": self._models[entry.model].qos_s,
            "own": self._kept[1],
        }
        return self._ffi.new("event_t *", event)

    def _take_readings(self, decided: Entry) -> None:
        self._pressure = decided.pressure
        view = self._functions.loop_view(self._loop)
        for index, ended in enumerate(decided.ended_layers):
            self._ended[view.running[index].slot] = ended

    def _decision(self, command: Any) -> Decision | None:
        functions, account = self._functions, command.account
        if command.kind == functions.WAKE:
            return "wake", command.wake_s
        if command.kind == functions.START:
            first, stop = account.next_layer, command.stop
            versions = self._versions(command, stop - first)
            asked = command.cores, command.wanted, command.bytes_per_s
            return "start", account.id, first, stop, *asked, versions
        if command.kind == functions.RESIZE:
            return "resize", account.id, command.cores, self._versions(command, account.stop - account.first)
        return ("yield", account.id) if command.kind == functions.YIELD else None

    def _versions(self, command: Any, layers: int) -> tuple[int, ...] | None:
        return tuple(bytes(self._ffi.buffer(command.versions, layers))) if command.versions else None

    def _make_backend(self) -> Any:
        ffi, ended = self._ffi, self._library.pointer(self._ended)
        calls = {
            "act": ffi.callback("int(void *, const command_t *, double)", lambda *_: 0),
            "pressure": ffi.callback("double(void *)", lambda _: self._pressure),
            "ended": ffi.callback("const int32_t *(void *)", lambda _: ffi.cast("int32_t *", ended)),
            "clear": ffi.callback("void(void *)", lambda _: None),
        }
        self._calls = calls
        return ffi.new("backend_t *", calls)
