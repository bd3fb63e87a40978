"""A wire between the service and PostgreSQL that can be cut or frozen at the worst moment."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

Watch = Callable[[bytes], bool]


def never(data: bytes) -> bool:
    return False


def commit_asked(data: bytes) -> bool:
    """A message to the server has COMMIT in it."""
    return b"COMMIT" in data


def commit_answered(data: bytes) -> bool:
    """The server says that it committed: a CommandComplete message with the tag COMMIT."""
    return b"COMMIT\0" in data


class Proxy:
    """Forwards bytes. When a watch says so, the connection is cut before these bytes go on; `cuts` limits how often."""

    def __init__(self, folder: Path, upstream_url: str) -> None:
        self.upstream = conninfo_to_dict(upstream_url)
        self.url = make_conninfo(upstream_url, host=str(folder), port=5432)
        self.cut_to_server: Watch = never
        self.cut_to_client: Watch = never
        self.cuts = 0  # how many more; each costs one connection
        self.stop_before = b""  # bytes to the server that are held back, with all that follows, until it flows again
        self.stopped = threading.Event()
        self.flowing = threading.Event()
        self.flowing.set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen(64)
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.flowing.set()
        self.cut_all()
        for each in (self._listener, *self._sockets):
            each.close()

    def cut_all(self) -> None:
        """Every connection of now is lost."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                self._sockets += [client, server]
                for source, target, side in ((client, server, "cut_to_server"), (server, client, "cut_to_client")):
                    threading.Thread(target=self._forward, args=(source, target, side), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = str(self.upstream.get("host", "localhost")), int(self.upstream.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _forward(self, source: socket.socket, target: socket.socket, side: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                if self.cuts and getattr(self, side)(data):
                    self.cuts -= 1
                    break
                if side == "cut_to_server" and self.stop_before and self.stop_before in data:
                    head, _, _ = data.partition(self.stop_before)
                    target.sendall(head)
                    data = data.removeprefix(head)
                    self.flowing.clear()
                    self.stopped.set()
                    self.flowing.wait()
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
