"""The network block that the kernels get."""

import os
import socket
import subprocess
import sys

import pytest

from course.running.execute import OFFLINE_GUARD

PROLOGUE = """
import asyncio, os, socket, urllib.request
def outcome(attempt):
    try:
        attempt()
    except Exception as error:
        while error.__cause__ or getattr(error, "reason", None):
            error = error.__cause__ or error.reason
        return f"{type(error).__name__}: {error}"
    return "reached"
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
"""

BLOCKED = {
    "socket.create_connection(('192.0.2.1', 80), timeout=5)": "192.0.2.1",
    "socket.socket().connect(('192.0.2.1', 80))": "192.0.2.1:80",
    "socket.socket().connect_ex(('192.0.2.1', 80))": "192.0.2.1:80",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))": "192.0.2.1:53",
    "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))": "2001:db8::1:80",
    "socket.getaddrinfo('example.org', 443)": "example.org",
    "socket.gethostbyname('example.org')": "example.org",
    "socket.gethostbyaddr('192.0.2.1')": "192.0.2.1",
    "urllib.request.urlopen('https://example.org', timeout=5)": "example.org",
    "asyncio.run(asyncio.open_connection('192.0.2.1', 80))": "192.0.2.1:80",
}
ALLOWED = [
    "socket.create_connection(('127.0.0.1', port))",
    "socket.create_connection(('localhost', port))",
    "socket.getaddrinfo('::1', port)",
    "socket.getaddrinfo(None, port)",
    "socket.getaddrinfo('::ffff:127.0.0.1', port)",
    "asyncio.run(asyncio.open_connection('127.0.0.1', port))",
    "[pair := socket.socketpair(), pair[0].sendmsg([b'x'])]",
]


def outcomes(attempts: list[str], guarded: bool = True) -> list[str]:
    """What each attempt comes to, all of them in one Python of their own."""
    script = PROLOGUE + "\n".join(f"print(outcome(lambda: {attempt}))" for attempt in attempts)
    environment = {**os.environ, **({"PYTHONPATH": str(OFFLINE_GUARD)} if guarded else {})}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_way_out_of_the_machine_is_refused_and_names_the_address():
    expected = [f"OSError: the network is blocked in this run: {address}" for address in BLOCKED.values()]
    assert outcomes(list(BLOCKED)) == expected


def test_loopback_still_works():
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    assert outcomes(ALLOWED) == ["reached"] * len(ALLOWED)


def test_without_the_guard_the_same_attempt_is_not_refused_by_us():
    (outcome,) = outcomes(["socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"], guarded=False)
    assert "blocked in this run" not in outcome


def test_the_hub_is_told_as_well_because_it_opens_sockets_outside_python():
    assert outcomes(["print(os.environ['HF_HUB_OFFLINE'])"])[0] == "1"
