"""No network for Python: imported by every interpreter that starts with this folder on its PYTHONPATH.

`course run --offline` puts it there for the kernels, so that a lesson which needs the network fails instead of
downloading. The audit hook sees every socket that goes through Python's ``socket`` module (urllib, requests, httpx,
asyncio); code that opens sockets from C or Rust is not seen, which is why the hub's own switch is set as well.
Standard library only, and nothing heavy: it runs before anything else.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

_RESOLVE = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
_REACH = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getnameinfo"}


def _is_local(host):
    """Loopback in any spelling, and "any address of this machine", which servers resolve before they listen."""
    import ipaddress

    if isinstance(host, bytes | bytearray):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str) or host in ("", "localhost"):  # None, or a number: netlink, no internet address
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _guard(event, arguments):
    if event in _RESOLVE:
        host, shown = arguments[0], arguments[0]
    elif event in _REACH:
        address = arguments[-1]
        if not isinstance(address, tuple):  # a path (Unix sockets), or None: already connected
            return
        host, shown = address[0], ":".join(str(part) for part in address[:2])
    else:
        return
    if not _is_local(host):
        raise OSError(f"the network is blocked in this run: {shown}")


sys.addaudithook(_guard)
