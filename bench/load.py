"""Runs the programs that make load: wrk, pgbench, and two of this package, each in processes of its own."""

import json
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.processes import ROOT, TOKEN, BenchError

FOLDER = Path(__file__).parent
CONNECTIONS_PER_THREAD = 1000  # of wrk, which needs little CPU: one thread for up to 1,000 connections
TIMEOUT_SECONDS = 10  # of wrk for one request: longer than the service's deadline of 5 s
EXTRA_SECONDS = 60  # a load program that runs so much longer than it should is killed
OPEN_FILES_RESERVE = 100  # file descriptors of wrk that are not connections


@dataclass(frozen=True)
class Load:
    """Requests of one kind from a number of connections that each send the next request after the response."""

    kind: str  # of load.lua
    connections: int
    items: int = 1  # transfers or accounts in one request
    accounts: int = 10_000


@dataclass(frozen=True)
class Summary:
    """What wrk reports. The latency is that of a closed loop: a slow response delays the next request."""

    requests: int
    seconds: float
    refused: int  # responses with a status of 400 and above
    failed: int  # connections that failed, and requests without a response
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def successes(self) -> int:
        return self.requests - self.refused


def start_wrk(urls: Sequence[str], load: Load, seconds: float) -> list["subprocess.Popen[str]"]:
    """Start the load on one or several services at the same time, which share the connections."""
    return [_start_wrk(url, load, load.connections // len(urls), seconds) for url in urls]


def finish_wrk(running: Sequence["subprocess.Popen[str]"], seconds: float) -> Summary:
    """Wait for the end; of several services, p50, p99 and max are those of the slowest one."""
    found = [Summary(**json.loads(_output(process, seconds).splitlines()[-1])) for process in running]
    return Summary(
        requests=sum(summary.requests for summary in found),
        seconds=max(summary.seconds for summary in found),
        refused=sum(summary.refused for summary in found),
        failed=sum(summary.failed for summary in found),
        p50_ms=max(summary.p50_ms for summary in found),
        p99_ms=max(summary.p99_ms for summary in found),
        max_ms=max(summary.max_ms for summary in found),
    )


def _start_wrk(url: str, load: Load, connections: int, seconds: float) -> "subprocess.Popen[str]":
    threads = 1 + (connections - 1) // CONNECTIONS_PER_THREAD
    command = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{max(1, round(seconds))}s"]
    command += ["--timeout", f"{TIMEOUT_SECONDS}s", "-s", str(FOLDER / "load.lua"), url, "--"]
    command += [load.kind, str(load.accounts), TOKEN, str(load.items), str(random.getrandbits(32))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def check_open_files(connections: int) -> None:
    """Raise BenchError if this process, and so wrk, may not open that many connections."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < connections + OPEN_FILES_RESERVE:
        raise BenchError(f"{connections} connections need `ulimit -n {connections + OPEN_FILES_RESERVE}`; it is {soft}")


def pgbench(binaries: Path, url: str, script: str, *, hot: bool, clients: int, seconds: float, accounts: int) -> float:
    """Transactions per second of a script in bench/pgbench/."""
    command = [str(find_pgbench(binaries)), "--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=2"]
    command += [f"--time={max(1, round(seconds))}", f"--define=accounts={accounts}", f"--define=hot={int(hot)}"]
    command += [f"--file={FOLDER / 'pgbench' / script}.sql", url]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    output = _output(process, seconds)
    if "failed transactions: 0" not in output or not (rate := re.search(r"tps = ([0-9.]+)", output)):
        raise BenchError(f"pgbench failed:\n{output}")
    return float(rate[1])


def find_pgbench(binaries: Path) -> Path | None:
    """The pgbench beside the server's programs, or the one of PATH. An older one works with a newer server."""
    beside = binaries / "pgbench"
    found = str(beside) if beside.exists() else shutil.which("pgbench")
    return Path(found) if found else None


def run_module(name: str, seconds: float, *arguments: object) -> dict[str, float]:
    """Run `python -m bench.NAME` and return the JSON that it prints."""
    return finish_module(start_module(name, *arguments), seconds)


def start_module(name: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"bench.{name}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


def finish_module(process: "subprocess.Popen[str]", seconds: float) -> dict[str, float]:
    found: dict[str, float] = json.loads(_output(process, seconds))
    return found


def _output(process: "subprocess.Popen[str]", seconds: float) -> str:
    """What the program printed. Raises BenchError if it fails or does not end."""
    try:
        output, _ = process.communicate(timeout=seconds + EXTRA_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise BenchError(f"{process.args!r} ended with {process.returncode}:\n{output}")
    return output
