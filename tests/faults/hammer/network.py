"""A network link between two processes that can be cut, reset, silent or slow, lose responses and duplicate requests.

It is a TCP proxy on loopback. A link to PostgreSQL leads to the server's socket file, one to the service to its port.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

Connect = Callable[[], socket.socket]
Trigger = Callable[[bytes], bool]

BUFFER_BYTES = 65_536
BACKLOG = 256  # more than the clients and the connections of the pools
SILENCE_SECONDS = 120.0  # the longest time that bytes are held back: longer than any fault
COPY_SECONDS = 10.0  # how long the response to a duplicated request is read: longer than the service's deadline
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER on with 0 s: close() sends RST instead of FIN


def confirms_commit(data: bytes) -> bool:
    """Bytes of PostgreSQL confirm a commit: CommandComplete with the tag COMMIT."""
    return b"COMMIT\0" in data


class Link:
    """Forwards bytes to and from what `connect` reaches. The attributes change how, also for open connections."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        self.is_cut = False
        self.delay_seconds = 0.0  # of each piece of bytes
        self.loses: Trigger | None = None  # if it returns True for bytes of a response, the connection is cut instead
        self.copy_to: Connect | None = None  # the bytes of each request are also sent there
        self.flowing = threading.Event()
        self.flowing.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.is_cut = True
        self._listener.close()
        self.cut()

    def cut(self, *, reset: bool = False) -> None:
        """End every open connection, with RST if `reset`, else with FIN."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                if reset:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                    each.close()
                else:
                    each.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Forward everything again, including what was held back."""
        self.is_cut, self.delay_seconds, self.loses, self.copy_to = False, 0.0, None, None
        self.flowing.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Forward one connection until one of its sides ends."""
        with client, contextlib.suppress(OSError):
            self.flowing.wait(SILENCE_SECONDS)
            if self.is_cut:
                return
            with self._connect() as server:
                self._open |= {client, server}
                back = threading.Thread(target=self._forward, args=(server, client, True), daemon=True)
                back.start()
                self._forward(client, server, False)
                back.join(SILENCE_SECONDS)
                self._open -= {client, server}

    def _forward(self, source: socket.socket, target: socket.socket, is_response: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BUFFER_BYTES):
                self.flowing.wait(SILENCE_SECONDS)
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                if self.is_cut or (is_response and self.loses and self.loses(data)):
                    break
                if self.copy_to and not is_response:
                    threading.Thread(target=send_copy, args=(self.copy_to, data), daemon=True).start()
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def send_copy(connect: Connect, data: bytes) -> None:
    """Send the bytes on a connection of their own, and read what comes back, until its end or for COPY_SECONDS."""
    with contextlib.suppress(OSError), connect() as other:
        other.settimeout(COPY_SECONDS)
        other.sendall(data)
        other.shutdown(socket.SHUT_WR)
        while other.recv(BUFFER_BYTES):
            pass


@contextlib.contextmanager
def link_to(connect: Connect) -> Iterator[Link]:
    """A link that is open during the block."""
    with contextlib.closing(Link(connect)) as link:
        yield link


def to_port(port: int) -> Connect:
    """Connects to a port on loopback."""
    return lambda: socket.create_connection(("127.0.0.1", port))


def to_socket_file(path: str) -> Connect:
    """Connects to a Unix socket."""

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        return connection

    return connect
