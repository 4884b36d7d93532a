"""What front and engine say to each other: packets of requests and outcomes, and messages about models.

Both go through sockets that keep packets whole. Packets are laid out as `packet_t` and `outcome_t` of
live_loop.h: requests reach the deciding thread without Python.
"""

import struct
from array import array
from collections.abc import Sequence
from socket import CMSG_LEN, SCM_RIGHTS, SOL_SOCKET, socket
from typing import NamedTuple

import msgspec

from veltair.service.engine.link import ServedModel

REQUEST = struct.Struct("<IIQqq")  # kind, slot, sequence, sent and due (ns of the monotonic clock)
ASK, CANCEL = 1, 3
OUTCOME_BYTES = 1 << 15  # of a packet of outcomes at most
_OUTCOME = struct.Struct("<QqqdII")
MESSAGE_BYTES = 1 << 18
_MOST_FILES = 1


class Ended(NamedTuple):
    """What the engine tells of a request that ended: an `outcome_t`. Times are of the monotonic clock."""

    sequence: int
    began_ns: int
    ended_ns: int
    core_s: float
    ending: int
    blocks: int


SERVED, REJECTED, UNFINISHED = range(3)  # ending_t


def outcomes(packet: bytes) -> list[Ended]:
    """Return what a packet of the engine says."""
    return [Ended._make(fields) for fields in _OUTCOME.iter_unpack(packet)]


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first message of the front; with it comes the engine's end of the socket of requests."""


class AddModel(msgspec.Struct, frozen=True, tag=True):
    """Serve the model of an artifact folder."""

    key: str
    folder: str
    qos_s: float
    slots: int


class RemoveModel(msgspec.Struct, frozen=True, tag=True):
    """Serve a model no more. No request of it is under way."""

    key: str


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """The engine is there; it decides by `policy` on `cores`."""

    policy: str
    cores: int


class Added(msgspec.Struct, frozen=True, tag=True):
    """The model is served. The memory of its slots comes with this, the first of number `first_slot`."""

    model: ServedModel
    first_slot: int


class Removed(msgspec.Struct, frozen=True, tag=True):
    """Its memory is free."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """What was asked for cannot be done; everything else is as it was."""

    reason: str


Order = Hello | AddModel | RemoveModel
Answer = Welcome | Added | Removed | Refused
_encode = msgspec.json.Encoder().encode
_orders, _answers = msgspec.json.Decoder(Order), msgspec.json.Decoder(Answer)


def send(channel: socket, message: Order | Answer, files: Sequence[int] = ()) -> None:
    """Send a message, and open files with it. Raises OSError."""
    passed = [(SOL_SOCKET, SCM_RIGHTS, array("i", files))] if files else []
    channel.sendmsg([_encode(message)], passed)


def receive_order(channel: socket) -> tuple[Order | None, list[int]]:
    """Return the next message of the front and the files that came with it; None once it is gone."""
    packet, files = _receive(channel)
    return (_orders.decode(packet) if packet else None), files


def receive_answer(channel: socket) -> tuple[Answer | None, list[int]]:
    """Return the next message of the engine and the files that came with it; None once it is gone."""
    packet, files = _receive(channel)
    return (_answers.decode(packet) if packet else None), files


def _receive(channel: socket) -> tuple[bytes, list[int]]:
    files = array("i")
    try:
        packet, passed, _, _ = channel.recvmsg(MESSAGE_BYTES, CMSG_LEN(_MOST_FILES * files.itemsize))
    except ConnectionError:
        return b"", []
    for level, kind, data in passed:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    return packet, list(files)
