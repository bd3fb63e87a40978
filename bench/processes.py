"""The service as processes of a measurement: start, stop, CPU time and memory. Linux only, because it reads /proc."""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOKEN = secrets.token_hex(32)
TOKEN_SHA256 = hashlib.sha256(TOKEN.encode()).hexdigest()
# admin: the accounts that the load opens have no floor.
CALLERS = [{"name": "bench", "scopes": ["read", "write", "admin"], "token_sha256": [TOKEN_SHA256]}]
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")  # the unit of CPU time in /proc
READY_SECONDS = 30
READY_POLL_SECONDS = 0.005  # short, because the time from start to ready is a result
STOP_SECONDS = 40  # longer than the service's own limit for requests in progress
MARKER = "LEDGER_BENCH"  # a variable of the services, by which the next run finds those of a killed run
LOG_LINES = 20  # the last lines of a service are kept, and shown if it ends unexpectedly


class BenchError(Exception):
    """The measurement cannot be made; the message has the reason."""


@dataclass(frozen=True)
class Service:
    """One running process of the service. gunicorn's worker is its child."""

    process: "subprocess.Popen[bytes]"
    port: int
    ready_seconds: float  # from the start of the process to the first 200 of /ready

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def memory_mb(self) -> float:
        """Resident memory of gunicorn's worker, which serves the requests, in 10^6 bytes."""
        _, worker, *_ = family(self.process.pid)
        return _memory_bytes(worker, "VmRSS") / 1e6

    def proportional_memory_mb(self) -> float:
        """Memory of all its processes, in 10^6 bytes, with shared pages divided by the processes that share them."""
        return sum(_memory_bytes(pid, "Pss") for pid in family(self.process.pid)) / 1e6


@contextlib.contextmanager
def serving(database_url: str, work: Path, folder: Path = ROOT) -> Iterator[Service]:
    """The service of this folder on a free port, with the settings of production, during the block.

    Its log goes through a pipe to a process that reads at once and keeps the last lines, as a container runtime reads.
    """
    port = free_port()
    log = work / f"service-{port}.log"
    with log.open("wb") as file:
        started_at = time.perf_counter()
        process = _start(database_url, port, work, folder)
        reader = subprocess.Popen(
            ["tail", "-n", str(LOG_LINES)], stdin=process.stdout, stdout=file, start_new_session=True
        )
        assert process.stdout is not None, "bug: the service was started without a pipe"
        process.stdout.close()
        try:
            _await_ready(process, port)
            yield Service(process, port, time.perf_counter() - started_at)
            if process.poll() is not None:
                raise BenchError(f"the service ended with {process.returncode} during the measurement")
        finally:
            _stop(process)
            reader.wait(STOP_SECONDS)
            if process.returncode:
                print(log.read_text(errors="replace"), file=sys.stderr)


def _start(database_url: str, port: int, work: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """Start the process with exactly these settings; all others have their defaults."""
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "CALLERS": json.dumps(CALLERS),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DRAIN_SECONDS": "0",
        MARKER: str(work),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "service"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that Ctrl-C reaches only this program, which stops the service
    )


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _await_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1).close()
            return
        time.sleep(READY_POLL_SECONDS)
    raise BenchError(f"the service was not ready after {READY_SECONDS} s; exit code {process.poll()}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, then SIGKILL for the whole process group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(STOP_SECONDS)
        return
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)


def kill_leftovers(work: Path) -> None:
    """Kill services of an earlier run on this directory that was killed itself and so could not stop them."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if f"{MARKER}={work}" in path.read_text(errors="replace").split("\0"):
                os.kill(int(path.parts[2]), signal.SIGKILL)


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(path.parts[2])] = int(_stat_fields(path)[1])
    found = [pid]
    for ancestor in found:  # the list grows while it is read
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of the process and its descendants, user and system."""
    seconds = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            user, system = _stat_fields(Path(f"/proc/{member}/stat"))[11:13]
            seconds += (int(user) + int(system)) / TICKS_PER_SECOND
    return seconds


def _stat_fields(path: Path) -> list[str]:
    """The fields of /proc/PID/stat after the name of the program: state, parent, …"""
    return path.read_text().rpartition(")")[2].split()


def _memory_bytes(pid: int, name: str) -> int:
    """VmRSS or Pss of a process."""
    file = "smaps_rollup" if name == "Pss" else "status"
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"/proc/{pid}/{file} has no {name}")


def steal_and_total_ticks() -> tuple[int, int]:
    """CPU time that the hypervisor gave to other machines, and all CPU time, since the start of this machine."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)
