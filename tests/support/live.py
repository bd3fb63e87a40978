"""The service as a separate process: start it, send it requests, stop it, and read every line that it printed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dev.run import TOKEN
from tests.support.waiting import LIMIT_SECONDS, wait_until

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port on which nothing listens. Another process may take it later."""
    with reserved_port() as port:
        return port


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port that the system gives to no other process during the block. The service can listen on it.

    The port is bound without listening. A server that sets SO_REUSEADDR, as gunicorn does, can bind it too.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


@dataclass
class Live:
    """A running service. `lines` are what it printed, after it has stopped."""

    process: "subprocess.Popen[bytes]"
    printed: IO[bytes]
    url: str
    lines: list[dict[str, Any]] = field(default_factory=list)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of the response."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{self.url}{path}", content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, and return the exit code."""
        self.process.send_signal(number)
        return self.finish()

    def finish(self) -> int:
        """Wait for the end of the process, read its lines, and return its exit code. Kills it at the limit."""
        try:
            code = self.process.wait(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.printed.seek(0)
        self.lines = [json.loads(line) for line in self.printed]
        return code

    def is_ready(self) -> bool:
        """Whether /ready returns 200. Raises AssertionError if the process has ended."""
        assert self.process.poll() is None, f"the service ended with {self.finish()}: {self.lines}"
        with contextlib.suppress(OSError):
            return self.request("GET", "/ready")[0] == 200
        return False


@contextlib.contextmanager
def serving(
    environment: dict[str, str],
    module: tuple[str, ...] = ("service",),
    folder: Path = ROOT,
    open_files: int | None = None,
) -> Iterator[Live]:
    """The service on a free port, ready. `module` may be one that breaks it, `folder` a copy of the repository."""
    with starting(environment, module, folder, open_files) as live:
        wait_until(live.is_ready, "the service is ready")
        yield live


@contextlib.contextmanager
def starting(
    environment: dict[str, str],
    module: tuple[str, ...] = ("service",),
    folder: Path = ROOT,
    open_files: int | None = None,
) -> Iterator[Live]:
    """The same, without waiting until it is ready."""
    with reserved_port() as port, tempfile.TemporaryFile() as printed:
        process = start([*module], environment | {"PORT": str(port)}, printed, folder, open_files)
        live = Live(process, printed, f"http://127.0.0.1:{port}")
        try:
            yield live
        finally:
            if process.poll() is None:
                live.stop()


def start(
    module: list[str],
    environment: dict[str, str],
    printed: IO[bytes],
    folder: Path = ROOT,
    open_files: int | None = None,
) -> "subprocess.Popen[bytes]":
    """Start `python -m MODULE` with exactly this environment. Stdout and stderr go to a file, which is never full.

    `open_files` limits its open files: the soft and the hard limit.
    """
    limit = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(open_files)] if open_files else []
    return subprocess.Popen(
        [*limit, sys.executable, "-m", *module],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=printed,
        stderr=subprocess.STDOUT,
    )


def run(
    module: list[str], environment: dict[str, str], folder: Path = ROOT, open_files: int | None = None
) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and printed lines of a process that ends by itself; `folder` may be a copy of the repository."""
    with tempfile.TemporaryFile() as printed:
        live = Live(start(module, environment, printed, folder, open_files), printed, "")
        return live.finish(), live.lines
