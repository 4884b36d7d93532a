import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.evaluation.scripted_server import Script, ScriptedServer, reply, scripted
from veltair.evaluation.remote.client import Client, NoAnswerError
from veltair.evaluation.remote.connection import Address, AddressError, Answer

REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
WAIT_S = 10.0
Told = Callable[[], tuple[int, Any]]


@contextmanager
def client_of(script: Script, timeout_s: float = WAIT_S) -> Iterator[tuple[Client, ScriptedServer, Told]]:
    found: queue.Queue[tuple[int, Any]] = queue.Queue()
    with scripted(script) as server:
        address = Address.of(server.url)
        client = Client(address, timeout_s, lambda number, start_s, answer: found.put((number, answer)))
        try:
            yield client, server, lambda: found.get(timeout=WAIT_S)
        finally:
            client.stop()


def body(told: tuple[int, Any]) -> bytes:
    assert isinstance(told[1], Answer), told[1]
    return told[1].body


def test_requests_one_after_the_other_share_a_connection() -> None:
    with client_of(lambda number, path, body: reply(b"%d%s" % (number, body))) as (client, _, told):
        for number in range(3):
            client.send(number, REQUEST)
            assert body(told()) == b"%dhi" % number
        assert client.opened == 1


def test_a_request_that_finds_no_idle_connection_opens_one() -> None:
    both = threading.Barrier(2)

    def script(number: int, path: str, body: bytes) -> bytes:
        both.wait(WAIT_S)
        return reply(body)

    with client_of(script) as (client, _, told):
        client.open(1)
        client.send(0, REQUEST)
        client.send(1, REQUEST)
        assert {told()[0], told()[0]} == {0, 1}
        assert client.opened == 2


def test_connections_that_the_server_closed_are_opened_again() -> None:
    with client_of(lambda number, path, body: reply(body)) as (client, server, told):
        client.open(3)
        server.close_all(3)
        client.send(7, REQUEST)
        assert (told()[0], client.opened) == (7, 4)
        client.open(3)
        assert client.opened >= 6


def test_a_request_whose_connection_closes_is_sent_again_once() -> None:
    numbers: list[int] = []

    def script(number: int, path: str, body: bytes) -> bytes:
        numbers.append(number)
        return reply(body) if number else b""

    with client_of(script) as (client, _, told):
        client.send(0, REQUEST)
        assert body(told()) == b"hi"
        assert numbers == [0, 1]


def test_a_server_that_closes_each_connection_gives_no_answer() -> None:
    with client_of(lambda number, path, body: b"") as (client, _, told):
        client.send(3, REQUEST)
        number, answer = told()
        assert number == 3
        assert isinstance(answer, NoAnswerError) and "closed" in str(answer)


def test_what_was_answered_in_part_is_not_sent_again() -> None:
    numbers: list[int] = []

    def script(number: int, path: str, body: bytes) -> bytes:
        numbers.append(number)
        threading.Timer(0.05, server.close_all, [1]).start()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal"

    with client_of(script) as (client, server, told):
        client.send(0, REQUEST)
        assert isinstance(told()[1], NoAnswerError)
        assert numbers == [0]


def test_a_request_without_answer_ends_in_time_and_others_go_on() -> None:
    hold = threading.Event()

    def script(number: int, path: str, body: bytes) -> bytes:
        if number == 0:
            hold.wait(WAIT_S)
        return reply(body)

    with client_of(script, timeout_s=0.1) as (client, _, told):
        client.send(0, REQUEST)
        number, answer = told()
        assert number == 0 and "no answer within 0.1 s" in str(answer)
        client.send(1, REQUEST)
        assert told()[0] == 1
        hold.set()


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0\r\n\r\n", b"\0" * 100, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_is_no_answer(garbage: bytes) -> None:
    with client_of(lambda number, path, body: garbage) as (client, _, told):
        client.send(0, REQUEST)
        assert "no HTTP" in str(told()[1])


def test_parts_of_unknown_length_are_joined() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    with client_of(lambda number, path, body: chunked) as (client, _, told):
        for number in range(2):
            client.send(number, REQUEST)
            assert body(told()) == b"abc"


def test_bodies_that_no_buffer_holds_come_whole() -> None:
    large = bytes(range(256)) * 20_000
    request = b"POST /x HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(large), large)
    with client_of(lambda number, path, body: reply(body)) as (client, _, told):
        client.send(0, request)
        assert body(told()) == large


def test_a_server_that_wants_to_close_is_let() -> None:
    closing = reply(b"", headers={"Connection": "close"})
    with client_of(lambda number, path, body: closing) as (client, _, told):
        for number in range(2):
            client.send(number, REQUEST)
            told()
        assert client.opened == 2


def test_a_port_without_a_server_is_told() -> None:
    with scripted(lambda number, path, body: b"") as server:
        address = Address.of(server.url)
    found: queue.Queue[Any] = queue.Queue()
    client = Client(address, WAIT_S, lambda number, start_s, answer: found.put(answer))
    client.send(0, REQUEST)
    assert isinstance(found.get(timeout=WAIT_S), NoAnswerError)
    with pytest.raises(OSError, match="no connection"):
        client.open(1)
    client.stop()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:80",
        "https://h:1",
        "http://",
        "http://h:x",
        "http://h:99999",
        "http://u:p@h",
        "http://h/?a",
        "http://h\n",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(AddressError):
        Address.of(url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://h:8000/", Address("h", 8000)),
        ("http://h/tenants/a/", Address("h", 80, "/tenants/a")),
        ("http://[::1]:9", Address("::1", 9)),
    ],
)
def test_addresses_are_read(url: str, address: Address) -> None:
    assert Address.of(url) == address
