"""The network between the nodes of a cluster: proxies whose node can be cut off while it runs."""

import contextlib
import socket
import threading
from collections import defaultdict

HOST = "127.0.0.1"
BUFFER_BYTES = 65536
CUT_SECONDS = 300  # far longer than a node is cut off, so that no thread waits without a limit


class Network:
    """Forwards connections to the ports of nodes. A node that is cut off gets and sends nothing.

    As in a network that loses every packet, connections stay open, and new ones get no response.
    """

    def __init__(self) -> None:
        self._flowing: defaultdict[str, threading.Event] = defaultdict(_set_event)
        self._sockets: list[socket.socket] = []

    def through(self, node: str, port: int) -> int:
        """The port of a new proxy for this port, which works while the node is not cut off."""
        listener = socket.create_server((HOST, 0))
        self._sockets.append(listener)
        threading.Thread(target=self._accept, args=(listener, port, self._flowing[node]), daemon=True).start()
        proxy_port: int = listener.getsockname()[1]
        return proxy_port

    def cut_off(self, node: str) -> None:
        self._flowing[node].clear()

    def restore(self) -> None:
        """Forward everything again, including what was held back."""
        for flowing in self._flowing.values():
            flowing.set()

    def close(self) -> None:
        """End all connections and proxies."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.restore()

    def _accept(self, listener: socket.socket, port: int, flowing: threading.Event) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                self._sockets.append(client)
                threading.Thread(target=self._connect, args=(client, port, flowing), daemon=True).start()

    def _connect(self, client: socket.socket, port: int, flowing: threading.Event) -> None:
        flowing.wait(CUT_SECONDS)
        try:
            server = socket.create_connection((HOST, port))
        except OSError:  # nothing listens there now
            client.close()
            return
        self._sockets.append(server)
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=_forward, args=(source, target, flowing), daemon=True).start()


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def _forward(source: socket.socket, target: socket.socket, flowing: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(BUFFER_BYTES):
            flowing.wait(CUT_SECONDS)
            target.sendall(data)
        flowing.wait(CUT_SECONDS)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
