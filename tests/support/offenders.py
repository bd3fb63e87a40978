"""Slow and broken clients: each keeps a connection of the service busy without receiving or sending what it should."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from dev.run import TOKEN
from tests.support.waiting import LIMIT_SECONDS

DRIP_SECONDS = 0.2  # between two bytes of a client that sends byte by byte
RECEIVE_BUFFER_BYTES = 4096  # of a client that does not receive
_PAGE = b"GET /v1/transfers?limit=500 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n"
_HALF_BODY = (
    b"PUT /v1/accounts/half HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
    b'Content-Length: 20\r\n\r\n{"currency"'
)
KINDS = ("idle", "half a head", "half a body", "byte by byte", "not receiving")


@contextlib.contextmanager
def offending(port: int, kind: str, count: int, token: str = TOKEN) -> Iterator[None]:
    """During the block, `count` clients of this kind have connections. They do not connect again when they are cut."""
    first = {
        "idle": b"",
        "half a head": b"GET /health HTTP/1.1\r\nHost: ",
        "half a body": _HALF_BODY % token.encode(),
        "byte by byte": b"G",
        "not receiving": _PAGE % token.encode(),
    }[kind]
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(_connect(port, kind, first)) for _ in range(count)]
        end = threading.Event()
        dripping = threading.Thread(target=_drip, args=(connections, end))
        if kind == "byte by byte":
            dripping.start()
            stack.callback(dripping.join)
        stack.callback(end.set)
        yield


def _connect(port: int, kind: str, first: bytes) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(LIMIT_SECONDS)
    if kind == "not receiving":  # before it connects, because the buffer limits what the client accepts
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    connection.connect(("127.0.0.1", port))
    connection.sendall(first)
    return connection


def _drip(connections: list[socket.socket], end: threading.Event) -> None:
    """Send a byte on each connection from time to time."""
    while not end.wait(DRIP_SECONDS):
        for connection in connections:
            with contextlib.suppress(OSError):  # it was cut
                connection.send(b"x")
