"""Writes the log from a thread of the operating system, so that no request waits for stdout.

A write to a full pipe blocks until the pipe is read. In a gevent process it would block all requests, even after their
commit. So the service adds its lines to a queue, and this thread writes them. The commands log without it.
"""

import contextlib
import logging
import os
import time
from queue import Empty
from select import PIPE_BUF
from typing import Any

from gevent import monkey

from service import logs, metrics

MAX_LINES = 10_000  # waiting to be written: 3 s of the highest rate, about 5 MB
# Further lines of level ERROR and above. Without a limit, they would use up the memory if stdout is not read.
MAX_ERROR_LINES = 10_000
BATCH_SECONDS = 0.005  # lines of this time are written together: each wake-up takes the interpreter from the requests
FLUSH_SECONDS = 2.0  # at exit, if stdout is not read

_RETRY_SECONDS = 0.05  # a pipe that the reader has set to non-blocking is full
# The functions that gevent replaces, as they were. With the replacements, the writer would be a greenlet, and a write
# that blocks would stop all requests.
_SimpleQueue: Any = monkey.get_original("queue", "SimpleQueue")
_sleep: Any = monkey.get_original("time", "sleep")
_start_thread: Any = monkey.get_original("_thread", "start_new_thread")


def install() -> None:
    """From now on, this process and its forks log through a LogWriter to stdout."""
    logging.root.handlers = [LogWriter(1)]


class LogWriter(logging.Handler):
    """A queue of lines and the thread that writes them, in their order. The first line starts the thread."""

    def __init__(self, file: int) -> None:
        super().__init__()
        self.setFormatter(logs.Formatter())
        self._file = file
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Begin without lines and without a thread. A fork has neither: the parent writes the lines that wait."""
        self._lines = _SimpleQueue()
        self._has_thread = False
        self._accepted = self._refused = self._written = self._failed = 0
        metrics.LOG_LINES.dropped = lambda: self._refused + self._failed

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line to the queue, or count it if the queue is full."""
        try:
            line = self.format(record).encode() + b"\n"
        except Exception:
            self.handleError(record)
            return
        if self._lines.qsize() >= MAX_LINES + (MAX_ERROR_LINES if record.levelno >= logging.ERROR else 0):
            self._refused += 1
            return
        self._accepted += 1
        self._lines.put(line)
        if not self._has_thread:
            self._has_thread = True
            _start_thread(self._run, ())

    def flush(self) -> None:
        """Wait until all lines are written, at most FLUSH_SECONDS. `logging` calls it when the process ends."""
        until = time.monotonic() + FLUSH_SECONDS
        while self._written + self._failed < self._accepted and time.monotonic() < until:
            _sleep(BATCH_SECONDS)

    def _run(self) -> None:
        """Write the lines in batches of at most PIPE_BUF bytes, or of one line.

        The kernel never mixes a write of this size with one of another process, such as gunicorn's master.
        """
        while True:
            line: bytes | None = self._lines.get()
            _sleep(BATCH_SECONDS)
            batch: list[bytes] = []
            size = 0
            while line is not None:
                size += len(line)
                if batch and size > PIPE_BUF:
                    self._write(batch)
                    batch, size = [], len(line)
                batch.append(line)
                line = self._next()
            self._write(batch)

    def _next(self) -> bytes | None:
        with contextlib.suppress(Empty):
            line: bytes = self._lines.get_nowait()
            return line
        return None

    def _write(self, lines: list[bytes]) -> None:
        """Write these lines. If that fails, for example because the disk is full, count them."""
        rest = b"".join(lines)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._file, rest) :]
                except BlockingIOError:
                    _sleep(_RETRY_SECONDS)
            self._written += len(lines)
        except OSError:
            self._failed += len(lines)
