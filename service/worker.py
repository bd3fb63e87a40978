"""gunicorn's gevent worker, with time limits for clients.

Each connection has a greenlet: while one waits for its client or for the database, the others run.

- If a request is not complete REQUEST_READ_SECONDS after its first byte, or has more than REQUEST_BYTES, it ends there
  as if the client had closed the connection.
- If a client has not received a response after RESPONSE_SEND_SECONDS, its connection is closed.
- A connection without a request is closed after gunicorn's `keepalive`, and within about a second after the drain.
- While the process drains, each response closes its connection, so that the client connects to another process.
"""

import contextlib
import errno
import functools
import time
from typing import Any

import gunicorn.util
from gevent import get_hub, socket
from gunicorn.workers.ggevent import GeventWorker

from service import drain, logs

REQUEST_READ_SECONDS = 10.0  # head and body together: 1 MiB in this time is 0.8 Mbit/s
# Head and body. gunicorn accepts a head of 0.8 MiB, and the largest body has 1 MiB. Without this limit, gunicorn would
# read a refused body of any length to its end.
REQUEST_BYTES = 2 * 2**20
DISCARDED_BYTES = 65_536  # of a refused body in one step: gunicorn's own 1,024 cost 25 ms of CPU for 1 MiB
RESPONSE_SEND_SECONDS = 10.0  # one response; the largest page is about as long as the largest body


class CooperativeWorker(GeventWorker):
    """Serves each connection through a ClientSocket."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._clients: set[ClientSocket] = set()

    def init_process(self) -> None:
        """Run in the new process until it stops."""
        get_hub().print_exception = _log_exception  # gevent would print a traceback that is not JSON
        super().init_process()

    def handle(self, listener: Any, client: socket.socket, address: Any) -> None:
        """Serve one connection until it ends."""
        wrapped = ClientSocket(client, self.cfg.keepalive)
        self._clients.add(wrapped)
        try:
            super().handle(listener, wrapped, address)
        finally:
            self._clients.remove(wrapped)

    def handle_request(self, listener_name: Any, request: Any, client: Any, address: Any) -> None:
        """Serve one request. gunicorn raises StopIteration if the connection ends with it."""
        should_close = request.should_close
        # gunicorn asks twice, for the header Connection and after the body. The first answer holds, even if the drain
        # begins between the two: a client keeps a connection on which the response did not have `Connection: close`.
        request.should_close = functools.cache(lambda: drain.is_active() or should_close())
        super().handle_request(listener_name, request, client, address)
        # Read the body, if the application refused the request before it did. gunicorn itself would read it in steps of
        # 1 KiB, and copy the rest in each step: with 1 MiB, all other requests waited 25 ms.
        while request.body.read(DISCARDED_BYTES):
            pass
        client.expect_request()

    def timeout_ctx(self) -> contextlib.AbstractContextManager[None]:
        """No limit, because ClientSocket has them: gunicorn's own would be `keepalive`, and not cover the body."""
        return contextlib.nullcontext()

    def notify(self) -> None:
        """gunicorn calls this once a second. After the drain, end the connections that have no request."""
        super().notify()
        if not self.alive:
            for client in self._clients:
                client.end_if_idle()


class ClientSocket:
    """What gunicorn uses of a socket. When a time limit has passed, `recv` returns nothing, as at the end of a stream.

    So a short head closes the connection, and a short body is refused with 400.
    """

    def __init__(self, client: socket.socket, idle_seconds: float) -> None:
        self._client = client
        self._idle_seconds = idle_seconds
        self._read_until: float | None = None  # of time.monotonic(); None: no byte of the next request has arrived
        self._bytes_left = REQUEST_BYTES
        self._has_ended = False
        self._unsent = b""  # the head of a response without a body, or before its body

    def recv(self, size: int) -> bytes:
        """Bytes of a request, or b"" if there are no more, or not in time."""
        self._flush()
        seconds = self._idle_seconds if self._read_until is None else self._read_until - time.monotonic()
        data = b""
        if not self._has_ended and seconds > 0 and self._bytes_left > 0:
            self._client.settimeout(seconds)
            with contextlib.suppress(TimeoutError):
                data = self._receive(size)
        if self._read_until is None:
            self._read_until = time.monotonic() + REQUEST_READ_SECONDS
        self._bytes_left -= len(data)
        self._has_ended = not data
        return data

    def _receive(self, size: int) -> bytes:
        try:
            data: bytes = self._client.recv(size)
        except socket.cancel_wait_ex:  # `end_if_idle` ended the wait. A request that has arrived meanwhile is read.
            data = self._client.recv(size)
        return data

    def sendall(self, data: bytes) -> None:
        """Send a response, or its next part.

        gunicorn sends head and body separately. The head waits for the body, because one packet instead of two saves
        5 % of the CPU time of a request.
        """
        self._unsent += data
        if not data.endswith(b"\r\n\r\n"):
            self._flush()

    def expect_request(self) -> None:
        """Count time and bytes from zero: the next byte that arrives begins another request."""
        self._read_until, self._bytes_left = None, REQUEST_BYTES

    def close(self) -> None:
        """Close the connection after the client has closed its side, so that it can read the last response.

        A close with unread bytes would reset the connection. gunicorn waits 2 seconds, or for 64 KiB.
        """
        with contextlib.suppress(OSError):  # the client has closed it
            self._flush()
        gunicorn.util.close_graceful(self._client)

    def _flush(self) -> None:
        if not self._unsent:
            return
        data, self._unsent = self._unsent, b""
        self._client.settimeout(RESPONSE_SEND_SECONDS)
        try:
            self._client.sendall(data)
        except TimeoutError:
            raise BrokenPipeError(errno.EPIPE, "the client does not receive") from None

    def end_if_idle(self) -> None:
        """If no byte of a request has arrived, end the connection as if the client had closed."""
        if self._read_until is None:
            with contextlib.suppress(OSError):  # the client has closed it
                self._client.shutdown(socket.SHUT_RD)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _log_exception(context: Any, kind: type[BaseException], error: Any, traceback: Any) -> None:
    logs.log.error("unexpected error in a greenlet", exc_info=error, extra={"event": "greenlet.failed"})
