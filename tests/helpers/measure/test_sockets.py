"""The watch over sockets sees attempts before they succeed or fail, so these tests need no network."""

import contextlib
import socket
import threading

import pytest

from helpers.measure.sockets import watch_sockets

ELSEWHERE = "192.0.2.1"  # RFC 5737: an address that belongs to nobody


def _try_to_connect(address) -> None:
    with contextlib.closing(socket.socket()) as client, contextlib.suppress(OSError):
        client.settimeout(0.01)
        client.connect(address)


@pytest.fixture
def server():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()


def test_no_socket_is_no_attempt():
    with watch_sockets() as seen:
        sum(range(10))
    assert (seen.attempts, seen.loopback) == ([], [])


def test_an_attempt_that_fails_is_seen():
    with watch_sockets() as seen:
        _try_to_connect((ELSEWHERE, 443))
    assert seen.attempts == [f"{ELSEWHERE}:443"]


def test_a_name_that_cannot_be_resolved_is_seen():
    with watch_sockets() as seen, contextlib.suppress(OSError):
        socket.getaddrinfo("model.invalid", 443)
    assert seen.attempts[0] == "model.invalid:443"


def test_this_machine_is_listed_apart(server):
    with watch_sockets() as seen:
        _try_to_connect(server)
    assert seen.attempts == []
    assert seen.loopback == [f"{server[0]}:{server[1]}"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_a_unix_socket_is_this_machine():
    client = socket.socket(socket.AF_UNIX)
    with watch_sockets() as seen, contextlib.closing(client), contextlib.suppress(OSError):
        client.connect("nobody-listens-here")
    assert (seen.attempts, seen.loopback) == ([], ["nobody-listens-here"])


def test_a_datagram_is_an_attempt():
    client = socket.socket(type=socket.SOCK_DGRAM)
    with watch_sockets() as seen, contextlib.closing(client), contextlib.suppress(OSError):
        client.sendto(b"?", (ELSEWHERE, 53))
    assert seen.attempts == [f"{ELSEWHERE}:53"]


def test_other_threads_are_seen_too():
    with watch_sockets() as seen:
        thread = threading.Thread(target=_try_to_connect, args=((ELSEWHERE, 80),))
        thread.start()
        thread.join()
    assert seen.attempts == [f"{ELSEWHERE}:80"]


def test_nothing_is_recorded_outside_the_watch_and_watches_nest():
    with watch_sockets() as outer:
        with watch_sockets() as inner:
            _try_to_connect((ELSEWHERE, 1))
        _try_to_connect((ELSEWHERE, 2))
    _try_to_connect((ELSEWHERE, 3))
    assert inner.attempts == [f"{ELSEWHERE}:1"]
    assert outer.attempts == [f"{ELSEWHERE}:1", f"{ELSEWHERE}:2"]


def test_the_watch_blocks_nothing(server):
    with watch_sockets(), contextlib.closing(socket.create_connection(server, timeout=5)) as client:
        assert client.getpeername() == server
