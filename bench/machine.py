"""What a result depends on: the machine, the versions, the settings of PostgreSQL, and the commit."""

import datetime
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from bench.processes import ROOT
from dev import postgres

# What an operator sets on a server of its own; all other settings are those of initdb. With the default max_wal_size of
# 1GB, a ledger of ten million transfers needs a checkpoint every 20 seconds, and after each one whole pages go to WAL.
MAX_WAL_SIZE = "8GB"
SHARED_BUFFERS_SHARE = 4  # a quarter of the memory, as the documentation of PostgreSQL recommends
PACKAGES = ("gunicorn", "gevent", "psycopg", "psycopg-pool")
FLUSHES = 200  # writes of one page, each flushed to the disk
PAGE_BYTES = 8192


def apply_settings(data: Path) -> None:
    """Create the cluster in this directory with the settings above, which take effect at the next start."""
    shared_buffers_mb = memory_bytes() // SHARED_BUFFERS_SHARE // 2**20
    with postgres.running(data) as server, psycopg.connect(server.superuser_url, autocommit=True) as connection:
        for name, value in (("max_wal_size", MAX_WAL_SIZE), ("shared_buffers", f"{shared_buffers_mb}MB")):
            connection.execute(SQL("ALTER SYSTEM SET {} = {}").format(Identifier(name), value))


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe(server: postgres.Server, work: Path) -> dict[str, Any]:
    """Facts for the results; the key is what docs/performance.md prints."""
    with psycopg.connect(server.superuser_url) as connection:
        settings = connection.execute(
            """
            SELECT name, current_setting(name)
            FROM pg_settings
            WHERE name IN (
                'fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'shared_buffers', 'max_wal_size',
                'checkpoint_timeout', 'autovacuum'
            )
            ORDER BY name
            """
        ).fetchall()
        version = connection.info.parameter_status("server_version") or ""
    return {
        "date": datetime.date.today().isoformat(),
        "CPU": f"{os.cpu_count()} × {cpu_model()}",
        "memory": f"{memory_bytes() / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "flush of one page": f"{flush_ms(work):.2f} ms (median of write and fdatasync)",
        "Python": platform.python_version(),
        "PostgreSQL": f"{version}: " + ", ".join(f"{name} {value}" for name, value in settings),
        "packages": ", ".join(filter(None, map(package, PACKAGES))),
        "load": f"wrk {wrk_version()}, pgbench {version}",
    }


def commit() -> str:
    """The commit of the measured code, with "+" if files were changed since; empty outside of git."""
    try:
        found = subprocess.check_output(["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, text=True).strip()
        changed = subprocess.check_output(["git", "status", "--porcelain", "service", "sql"], cwd=ROOT, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found + ("+" if changed else "")


def cpu_model() -> str:
    match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def package(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def wrk_version() -> str:
    printed = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    match = re.search(r"wrk \S*?([0-9.]+)", printed.stdout + printed.stderr)
    return match[1] if match else ""


def flush_ms(folder: Path) -> float:
    """How long the disk of the database needs to write one page durably: the lower limit of a commit."""
    path = folder / "flush"
    seconds = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for number in range(FLUSHES):
            started_at = time.perf_counter()
            os.pwrite(descriptor, bytes(PAGE_BYTES), number * PAGE_BYTES)
            os.fdatasync(descriptor)
            seconds.append(time.perf_counter() - started_at)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(seconds) * 1000
