"""The process that starts the processes of a cluster and ends all of them. cluster.py starts it; it is not run by hand.

Each line of standard input is an order in JSON: a program to start, which the keeper answers with the process id. At
the end of the input, which also comes if the parent is killed, it ends every process whose working directory is inside
the directory of the cluster, and removes that directory. So it also ends the servers that Patroni has started, and
programs that a test has stopped with SIGSTOP. It ignores SIGHUP, SIGINT and SIGTERM.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

STOP_SECONDS = 5  # an immediate shutdown of PostgreSQL takes 0.2 s
POLL_SECONDS = 0.05


def keep(home: Path) -> None:
    """Start what is ordered, until the input ends. Then end all processes and remove the directory."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)  # the programs do not inherit this, unlike SIG_IGN
    try:
        for line in sys.stdin:
            order = json.loads(line)
            with contextlib.suppress(BrokenPipeError):
                os.write(sys.stdout.fileno(), f"{start(home, **order)}\n".encode())
    finally:
        stop(home)
        shutil.rmtree(home, ignore_errors=True)


def start(home: Path, name: str, command: list[str], environment: dict[str, str], account: dict[str, Any]) -> int:
    """Start a program in its directory, and return its process id. Its output goes to NAME.log."""
    with (home / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=home / name,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **account,
        )
    pid: int = process.pid
    return pid


def stop(home: Path) -> None:
    """End all processes: PostgreSQL by SIGQUIT, because SIGKILL leaves its shared memory behind; then all others."""
    servers = {int(path.read_text().split("\n", 1)[0]) for path in home.glob("*/data/postmaster.pid")}
    for process in members(home):
        with contextlib.suppress(psutil.Error):
            process.resume()
            if process.pid in servers:
                process.send_signal(signal.SIGQUIT)
            elif Path(process.cwd()).name != "data":  # Patroni and etcd; the server itself ends its other processes
                process.kill()
    until = time.monotonic() + STOP_SECONDS
    while time.monotonic() < until and list(members(home)):
        time.sleep(POLL_SECONDS)
    for process in members(home):
        with contextlib.suppress(psutil.Error):
            process.kill()


def members(home: Path) -> Iterator[psutil.Process]:
    """The processes that still run with a working directory inside this one."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(home):
                yield process


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
