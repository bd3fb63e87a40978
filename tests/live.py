"""The service as a process of its own: started, asked over HTTP, stopped, and every byte that it printed kept."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from psycopg.conninfo import make_conninfo

ROOT = Path(__file__).parents[1]
TOKEN = "development-only-token"
PATIENCE_SECONDS = 30  # far more than needed; a test that waits so long has failed


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Urls:
    """The two ways into a database: the service's role and the owner's."""

    service: str
    owner: str

    def database(self, name: str) -> "Urls":
        return Urls(make_conninfo(self.service, dbname=name), make_conninfo(self.owner, dbname=name))


@dataclass
class Live:
    """A running service. `lines` are what it printed, once it has stopped."""

    process: "subprocess.Popen[bytes]"
    printed: IO[bytes]
    url: str
    lines: list[dict[str, Any]] = field(default_factory=list)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        content = None if body is None else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{self.url}{path}", content, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.finish()

    def finish(self) -> int:
        code = self.process.wait(timeout=PATIENCE_SECONDS)
        self.printed.seek(0)
        self.lines = [json.loads(line) for line in self.printed]
        return code


@contextlib.contextmanager
def serving(environment: dict[str, str]) -> Iterator[Live]:
    """The service on a free port, ready."""
    port = free_port()
    with tempfile.TemporaryFile() as printed:
        process = start(["service"], environment | {"PORT": str(port)}, printed)
        live = Live(process, printed, f"http://127.0.0.1:{port}")
        try:
            until = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < until and process.poll() is None:
                with contextlib.suppress(OSError):
                    if live.request("GET", "/ready")[0] == 200:
                        break
            yield live
        finally:
            if process.poll() is None:
                live.stop()


def start(
    module: list[str], environment: dict[str, str], printed: IO[bytes], folder: Path = ROOT
) -> "subprocess.Popen[bytes]":
    """`python -m MODULE` with exactly this environment; stderr goes where stdout goes, to a file that is never full."""
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=printed,
        stderr=subprocess.STDOUT,
    )


def run(module: list[str], environment: dict[str, str], folder: Path = ROOT) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and printed lines of a process that ends by itself; `folder` may be a copy of the repository."""
    with tempfile.TemporaryFile() as printed:
        live = Live(start(module, environment, printed, folder), printed, "")
        return live.finish(), live.lines
