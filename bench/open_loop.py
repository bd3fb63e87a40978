"""`python -m bench.open_loop …`: requests at a given rate, whatever the responses take. Prints one line of JSON.

The times of the requests are drawn before the run, with random gaps as from independent callers (a Poisson process).
If no connection is free at that time, the request waits here. The latency of a request is measured from its scheduled
time to the last byte of its response, so a slow response also counts for the requests that it delays (no coordinated
omission). wrk cannot do this: each of its connections waits for the response before it sends the next request.

One thread, non-blocking sockets and epoll, because the client shares the CPU with what it measures. It reports its own
CPU time and how late it sent requests for which a connection was free.
"""

import argparse
import json
import math
import os
import random
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field

MAX_CONNECTIONS = 512  # requests in progress; more wait here, which counts as latency
GRACE_SECONDS = 10.0  # for the last responses; longer than the service's deadline
RECEIVE_BYTES = 65_536
PROBES = ("health", "ready", "metrics")  # paths that need no token
BODY = '{"from":"a%d","to":"a%d","amount":1,"currency":"EUR","metadata":{"order":"A-19"}}'


@dataclass
class Exchange:
    """A connection, and the request that is in progress on it."""

    socket: socket.socket
    request: bytes = b""
    scheduled_at: float = 0.0
    received: bytes = b""

    def is_complete(self) -> bool:
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return bool(end) and len(body) >= int(length or 0)


@dataclass
class Client:
    """Sends the requests at their times and measures the latencies."""

    arguments: argparse.Namespace
    epoll: select.epoll = field(default_factory=select.epoll)
    idle: list[Exchange] = field(default_factory=list)
    exchanges: dict[int, Exchange] = field(default_factory=dict)  # by file descriptor
    waiting: deque[float] = field(default_factory=deque)  # scheduled times of requests without a connection
    latencies: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)  # from the scheduled time to sending, if a connection was free
    errors: int = 0
    sent: int = 0

    def run(self) -> None:
        """Send for the given time, then wait for the last responses."""
        start = time.perf_counter()
        scheduled = deque(draw_times(start, self.arguments.rate, self.arguments.seconds))
        until = start + self.arguments.seconds + GRACE_SECONDS
        while scheduled or self.waiting or len(self.exchanges) > len(self.idle):
            now = time.perf_counter()
            if now > until:
                break
            while scheduled and scheduled[0] <= now:
                self.begin(scheduled.popleft(), now)
            pause = max(0.0, (scheduled[0] if scheduled else until) - time.perf_counter())
            # epoll waits whole milliseconds; select on the epoll descriptor has a resolution of microseconds.
            if select.select([self.epoll.fileno()], [], [], pause)[0]:
                for descriptor, events in self.epoll.poll(0):
                    self.advance(self.exchanges[descriptor], events)
        self.errors += len(scheduled) + len(self.waiting) + len(self.exchanges) - len(self.idle)

    def begin(self, scheduled_at: float, now: float) -> None:
        """Send a request on a free connection, or on a new one; if there are too many, it waits."""
        if self.idle:
            exchange = self.idle.pop()
        elif len(self.exchanges) < MAX_CONNECTIONS:
            exchange = self.connect()
        else:
            self.waiting.append(scheduled_at)
            return
        self.delays.append(now - scheduled_at)
        self.send(exchange, scheduled_at)

    def connect(self) -> Exchange:
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect_ex(("127.0.0.1", self.arguments.port))
        exchange = Exchange(connection)
        self.exchanges[connection.fileno()] = exchange
        self.epoll.register(connection, select.EPOLLOUT)  # writable when it is connected
        return exchange

    def send(self, exchange: Exchange, scheduled_at: float) -> None:
        """Send now if the connection is established, otherwise when epoll says that it is."""
        self.sent += 1
        exchange.request, exchange.scheduled_at, exchange.received = self.make_request(), scheduled_at, b""
        try:
            exchange.socket.send(exchange.request)
            self.epoll.modify(exchange.socket, select.EPOLLIN)
        except BlockingIOError:
            self.epoll.modify(exchange.socket, select.EPOLLOUT)
        except OSError:
            self.fail(exchange)

    def advance(self, exchange: Exchange, events: int) -> None:
        """The connection is established, or a part of the response has arrived."""
        try:
            if events & select.EPOLLOUT:
                exchange.socket.send(exchange.request)
                self.epoll.modify(exchange.socket, select.EPOLLIN)
                return
            part = exchange.socket.recv(RECEIVE_BYTES)
        except OSError:
            self.fail(exchange)
            return
        exchange.received += part
        if not part:
            self.fail(exchange)
        elif exchange.is_complete():
            self.finish(exchange)

    def finish(self, exchange: Exchange) -> None:
        """Record the latency, and reuse the connection."""
        if exchange.received[9:10] == b"2":
            self.latencies.append(time.perf_counter() - exchange.scheduled_at)
        else:
            self.errors += 1
        if self.arguments.kind in PROBES:
            self.close(exchange)  # a probe opens a new connection each time
        elif self.waiting:
            self.send(exchange, self.waiting.popleft())
        else:
            self.idle.append(exchange)

    def fail(self, exchange: Exchange) -> None:
        self.errors += 1
        self.close(exchange)

    def close(self, exchange: Exchange) -> None:
        del self.exchanges[exchange.socket.fileno()]
        exchange.socket.close()

    def make_request(self) -> bytes:
        """A probe, or a transfer with a new id; HTTP/1.1 keeps the connection open."""
        if self.arguments.kind in PROBES:
            return f"GET /{self.arguments.kind} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        source = 0 if self.arguments.kind == "hot" else random.randrange(self.arguments.accounts)
        target = (source + random.randrange(1, self.arguments.accounts)) % self.arguments.accounts
        body = BODY % (source, target)
        return (
            f"PUT /v1/transfers/{random.getrandbits(64):016x}-{os.getpid():x}-{self.sent} HTTP/1.1\r\n"
            f"Host: 127.0.0.1\r\nAuthorization: Bearer {self.arguments.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def draw_times(start: float, rate: float, seconds: float) -> list[float]:
    """The times of the requests: exponential gaps with the mean 1 / rate."""
    times, at = [], start
    while (at := at + random.expovariate(rate)) < start + seconds:
        times.append(at)
    return times


def percentile_ms(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] * 1000 if ordered else 0.0


def main() -> None:
    """Print rate and latencies of the successful requests, and what the client itself needed."""
    parser = argparse.ArgumentParser(prog="python -m bench.open_loop")
    parser.add_argument("kind", choices=["spread", "hot", *PROBES])
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float, help="requests per second")
    parser.add_argument("seconds", type=float)
    parser.add_argument("accounts", type=int)
    parser.add_argument("token")
    client = Client(parser.parse_args())
    client.run()
    cpu = os.times()
    result = {
        "rate": len(client.latencies) / client.arguments.seconds,
        "p50_ms": percentile_ms(client.latencies, 0.5),
        "p99_ms": percentile_ms(client.latencies, 0.99),
        "max_ms": percentile_ms(client.latencies, 1),
        "failed": client.errors,
        "connections": len(client.exchanges),
        "client_cpu_us": (cpu.user + cpu.system) / max(1, client.sent) * 1e6,
        "client_late_p99_ms": percentile_ms(client.delays, 0.99),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
