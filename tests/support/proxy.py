"""A proxy between the service and PostgreSQL that can cut or stop a connection at a chosen message."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.waiting import LIMIT_SECONDS

Trigger = Callable[[bytes], bool]


def no_data(data: bytes) -> bool:
    return False


def any_data(data: bytes) -> bool:
    return True


def has_commit(data: bytes) -> bool:
    """A message to the server contains COMMIT."""
    return b"COMMIT" in data


def confirms_commit(data: bytes) -> bool:
    """A message from the server confirms a commit: CommandComplete with the tag COMMIT."""
    return b"COMMIT\0" in data


class Proxy:
    """Forwards bytes. If a trigger returns True for some bytes, the connection is cut before they are forwarded."""

    def __init__(self, folder: Path, upstream_url: str) -> None:
        self.upstream = conninfo_to_dict(upstream_url)
        self.url = make_conninfo(upstream_url, host=str(folder), port=5432)
        self.cut_to_server: Trigger = no_data
        self.cut_to_client: Trigger = no_data
        self.cuts = 0  # the number of connections that the triggers may still cut
        self.lose = b""  # a message to the server with these bytes, and all that follow, vanish; no connection is cut
        self.losses = 0  # the number of connections that `lose` may still affect
        self.stop_before = b""  # these bytes to the server, and all that follow, are held back until `resume`
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
        """Cut every open connection."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def refuse_connections(self) -> None:
        """Cut every open connection, and each new one at its first byte, until `accept_connections`."""
        self.cut_to_server, self.cuts = any_data, 10**6
        self.cut_all()

    def accept_connections(self) -> None:
        self.cuts = 0

    def stop(self) -> None:
        """Forward nothing until `resume`."""
        self.flowing.clear()
        self.stopped.set()

    def resume(self) -> None:
        """Forward again, including what was held back."""
        self.lose = b""  # a message to the server with these bytes, and all that follow, vanish; no connection is cut
        self.losses = 0  # the number of connections that `lose` may still affect
        self.stop_before = b""
        self.flowing.set()

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
                self.flowing.wait(LIMIT_SECONDS)
                if self.cuts and getattr(self, side)(data):
                    self.cuts -= 1
                    break
                if side == "cut_to_server" and self.losses and self.lose in data:
                    self.losses -= 1
                    return
                if side == "cut_to_server" and self.stop_before and self.stop_before in data:
                    head, _, _ = data.partition(self.stop_before)
                    target.sendall(head)
                    data = data.removeprefix(head)
                    self.stop()
                    self.flowing.wait(LIMIT_SECONDS)
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """A proxy in front of the database of this URL."""
    with (
        TemporaryDirectory(prefix="proxy-", dir="/tmp") as folder,  # a socket's path has at most 103 bytes
        contextlib.closing(Proxy(Path(folder), url)) as proxy,
    ):
        yield proxy
