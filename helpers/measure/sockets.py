"""Who does this Python process try to talk to? A watch over its sockets.

CPython reports every ``socket`` call to audit hooks (PEP 578) before it happens, refused ones included. A hook can
never be taken off, so one is installed at the first watch and reports to whichever watches are open.

It sees what Python's ``socket`` module does, in every thread. It does not see libraries that open sockets in their own
C code; ``ipykernel``'s ZeroMQ, which carries a notebook's cells to and from the browser, is such a one.
"""

import contextlib
import ipaddress
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

_EVENTS = {  # audit event -> where in its arguments the address is
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}
_open_watches: list["Seen"] = []
_install = threading.Lock()
_installed = False


@dataclass
class Seen:
    """Addresses in the order of the attempts, a repeated one each time."""

    attempts: list[str] = field(default_factory=list)  # other machines, and names that had to be looked up
    loopback: list[str] = field(default_factory=list)  # this machine: 127.0.0.1, ::1, localhost, Unix sockets


@contextlib.contextmanager
def watch_sockets() -> Iterator[Seen]:
    """``with watch_sockets() as seen:`` lists every address that Python tries to reach or to look up inside.

    Nothing is blocked. Watches nest, and each sees all threads. Built in lesson `open_a_model`.
    """
    _install_hook()
    seen = Seen()
    _open_watches.append(seen)
    try:
        yield seen
    finally:
        _open_watches[:] = [watch for watch in _open_watches if watch is not seen]


def _install_hook() -> None:
    global _installed
    with _install:
        if not _installed:
            sys.addaudithook(_report)
            _installed = True


def _report(event: str, arguments: tuple) -> None:
    if event not in _EVENTS or not _open_watches:
        return
    address = arguments[_EVENTS[event]]
    if address is None:  # getaddrinfo(None, port), and sendmsg on a connected socket, reach nothing new
        return
    if event.startswith("socket.get"):
        host, port = address, arguments[1] if event == "socket.getaddrinfo" else None
    elif isinstance(address, tuple):
        host, port = address[:2]
    else:
        host, port = "", address  # a Unix socket: no host, and a path
    text = ":".join(_text(piece) for piece in (host, port) if piece not in ("", None))
    for seen in _open_watches:
        (seen.loopback if _is_this_machine(host) else seen.attempts).append(text)


def _text(value) -> str:
    return os.fsdecode(value) if isinstance(value, (bytes, str)) else str(value)


def _is_this_machine(host) -> bool:
    if isinstance(host, int) or host in ("", b"", "localhost", b"localhost"):  # a number: Linux netlink, the kernel
        return True
    try:
        return ipaddress.ip_address(_text(host).partition("%")[0]).is_loopback
    except ValueError:
        return False
