"""An HTTP server on loopback that sends prepared responses, whatever the requests are, and records the requests."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import IO, Any

Reply = bytes | None
LOST = b""  # the connection is closed without a response
SILENT = None  # nothing is sent; the client closes the connection


class ScriptedServer:
    """Sends one of the replies on each connection, in order. After the last one, it refuses connections."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = replies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[tuple[str, bytes]] = []  # request line and body
        if replies:
            threading.Thread(target=self._accept, daemon=True).start()
        else:
            self._listener.close()

    def close(self) -> None:
        """Accept no more connections."""
        with contextlib.suppress(OSError):  # it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            for number, reply in enumerate(self._replies, 1):
                connection, _ = self._listener.accept()
                with connection, connection.makefile("rb") as received:
                    self._receive(received)
                    if number == len(self._replies):
                        self._listener.close()  # before the reply, because the client may then connect at once
                    connection.sendall(reply or b"")
                    if reply is SILENT:
                        received.read()

    def _receive(self, received: IO[bytes]) -> None:
        line = received.readline().decode().strip()
        headers = http.client.parse_headers(received)
        self.requests.append((line, received.read(int(headers["Content-Length"] or 0))))


@contextlib.contextmanager
def scripted(*replies: Reply) -> Iterator[ScriptedServer]:
    """The server during the block."""
    with contextlib.closing(ScriptedServer(*replies)) as server:
        yield server


def reply(status: int, body: Any, **headers: str) -> bytes:
    """A response. A body that is a string is sent as HTML, and any other one as JSON."""
    content = (body if isinstance(body, str) else json.dumps(body)).encode()
    kind = "text/html" if isinstance(body, str) else "application/json"
    headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


def problem(slug: str, status: int, **members: Any) -> bytes:
    """A problem of the ledger. With 503 it asks the client to wait one second."""
    headers = {"Retry_After": "1"} if status == 503 else {}
    return reply(status, {"type": f"/problems/{slug}", "title": "", "status": status, **members}, **headers)
