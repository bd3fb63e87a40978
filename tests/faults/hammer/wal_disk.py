"""The fault "disk of the WAL full": the WAL moves to a small file system, which is then filled.

Only root can mount. PostgreSQL ends itself (PANIC) when it cannot write WAL, and does not start before there is room.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.faults.hammer.system import Database
from tests.support.waiting import wait_until

ROOM_BYTES = 64 * 2**20  # beyond the WAL that exists: four segments
FILLER_BYTES = 2**20  # of one write
SWITCHES = 50  # of WAL segments, until one cannot be created: more than WAL_SETTINGS keeps
MOUNT_SECONDS = 10.0


@contextmanager
def full(database: Database) -> Iterator[None]:
    """During the block, the disk of the WAL is full. The server is restarted before and after."""
    wal, kept = database.server.data / "pg_wal", database.server.data / "pg_wal.kept"
    with on_small_disk(database, wal, kept):
        filler = wal / "filler"
        fill(filler)
        use_up_segments(database)
        wait_until(lambda: not database.accepts_connections(), "PostgreSQL ends, because it cannot write WAL")
        yield
        filler.unlink()
        database.await_connections()


@contextmanager
def on_small_disk(database: Database, wal: Path, kept: Path) -> Iterator[None]:
    """During the block, the WAL is on a tmpfs. Afterwards it is on the disk again."""
    database.pg_ctl("stop", "-m", "fast")
    size = sum(path.stat().st_size for path in wal.rglob("*") if path.is_file()) + ROOM_BYTES
    wal.rename(kept)
    wal.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", wal], check=True, timeout=MOUNT_SECONDS)
    try:
        copy(kept, wal)
        database.restart()
        yield
    finally:
        database.pg_ctl("stop", "-m", "fast")
        shutil.rmtree(kept)
        kept.mkdir()
        copy(wal, kept)
        subprocess.run(["umount", wal], check=True, timeout=MOUNT_SECONDS)
        wal.rmdir()
        kept.rename(wal)
        database.restart()


def copy(source: Path, target: Path) -> None:
    """Copy the content and the owner, and flush it to the disk."""
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True, timeout=MOUNT_SECONDS)
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)
    target.chmod(0o700)
    subprocess.run(["sync", "-f", target], check=True, timeout=MOUNT_SECONDS)


def fill(filler: Path) -> None:
    """Write until the file system is full."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(ROOM_BYTES):  # more than fits
            file.write(bytes(FILLER_BYTES))


def use_up_segments(database: Database) -> None:
    """Switch to the next WAL segment until the server cannot create one. Segments that exist are used first."""
    with contextlib.suppress(psycopg.OperationalError), database.connection() as connection:
        for _ in range(SWITCHES):
            connection.execute("SELECT pg_logical_emit_message(false, 'hammer', ''), pg_switch_wal()")
