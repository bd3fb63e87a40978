"""A TCP load balancer. It chooses a backend for each connection, copies bytes, and retries nothing.

A retry would hide the failures that a stopping service causes. As in Kubernetes, the balancer learns late that a
backend stops: it still sends connections to the backend for FORGET_SECONDS after SIGTERM.
"""

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator

FORGET_SECONDS = 1.0  # shorter than the drain in the tests
BACKLOG = 128  # connections that wait to be accepted: more than the tests have clients


class Balancer:
    """Listens on a free port of 127.0.0.1, and serves each connection in two threads, one for each direction."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._backends: tuple[int, ...] = ()  # ports
        self._next = itertools.count()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections. The open ones end with their clients."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def add(self, port: int) -> None:
        """From now on, the backend gets its share of the connections."""
        self._backends += (port,)

    def forget_soon(self, port: int) -> None:
        """After FORGET_SECONDS, the backend gets no more connections. Its open connections stay."""
        timer = threading.Timer(FORGET_SECONDS, self._forget, [port])
        timer.daemon = True
        timer.start()

    def _forget(self, port: int) -> None:
        self._backends = tuple(other for other in self._backends if other != port)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Copy in both directions until both have ended. If the backend refuses, close the client's connection."""
        backends = self._backends
        port = backends[next(self._next) % len(backends)]
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as backend:
            for each in (client, backend):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(target=_copy, args=[backend, client], daemon=True)
            answers.start()
            _copy(client, backend)
            answers.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Forward until the end of the stream, and the end too. If a side is lost, end both."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def balancing() -> Iterator[Balancer]:
    """A balancer for the block."""
    with contextlib.closing(Balancer()) as balancer:
        yield balancer
