"""Waits with a limit. A test that reaches the limit fails instead of waiting without end."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import psycopg

from tests.support.ledger import Urls

LIMIT_SECONDS = 30.0  # far more than any wait needs, also under load
_POLL_SECONDS = 0.002


def attempts(what: str) -> Iterator[int]:
    """0, 1, 2 … for a loop that ends with `break` or `return`. Raises AssertionError after LIMIT_SECONDS."""
    until = time.monotonic() + LIMIT_SECONDS
    for number in itertools.count():
        yield number
        assert time.monotonic() < until, f"not within {LIMIT_SECONDS:.0f} s: {what}"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until the condition holds. Raises AssertionError after LIMIT_SECONDS."""
    for _ in attempts(what):
        if condition():
            return
        time.sleep(_POLL_SECONDS)


def join(*threads: threading.Thread) -> None:
    """Wait for the end of the threads."""
    for thread in threads:
        thread.join(LIMIT_SECONDS)
        assert not thread.is_alive(), f"{thread.name} did not end within {LIMIT_SECONDS:.0f} s"


def wait_for(event: threading.Event) -> None:
    """Wait for the event."""
    assert event.wait(LIMIT_SECONDS), f"the event was not set within {LIMIT_SECONDS:.0f} s"


def wait_for_lock_waiters(urls: Urls, count: int, or_end_of: threading.Thread | None = None) -> None:
    """Wait until `count` sessions of this database wait for a lock, or until the thread has ended."""
    waiting = """
        SELECT count(*)
        FROM pg_locks
        JOIN pg_stat_activity USING (pid)
        WHERE NOT granted AND datname = current_database()
    """
    with psycopg.connect(urls.owner, autocommit=True) as connection:

        def is_reached() -> bool:
            (number,) = connection.execute(waiting).fetchone() or (0,)
            return number >= count or (or_end_of is not None and not or_end_of.is_alive())

        wait_until(is_reached, f"{count} sessions wait for a lock")
