"""The connection pool, and retries. Knows no table and no rule; service/session.py has one connection and its COMMIT.

If the outcome of a COMMIT is unknown, the same work runs again on another connection. That is safe, because each write
carries an id.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.sql import SQL
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from service import logs, metrics, session
from service.contract import LIMITS
from service.errors import Refusal
from service.session import CommitNotReplicated, CommitUnknown, Connection, DeadlinePassed, is_lost

T = TypeVar("T")

# The pool's back-off has no cap: it took 18 s to reconnect after an outage of 40 s. After a failover with a frozen host
# in the URL, requests were served again after up to 3.2 s; with 3 s here and in connect_timeout, after up to 3.8 s.
RECONNECT_TIMEOUT_SECONDS = 1.0
POOL_CHECK_SECONDS = 1.0  # for an idle connection to respond, when the pool could not open another one
# Entries of the pool's queue: more than the requests that http/app.py admits, so that it alone refuses. A request that
# timed out stays in the queue until a connection is free, so this limits the queue during an outage.
MAX_WAITING = 4000
SHORTEST_WAIT_SECONDS = 0.001  # for a connection: with less, even a free one could come too late
ATTEMPTS = 3
# The pause before a retry is random: up to twice this before the second attempt, up to four times before the third.
FIRST_PAUSE_SECONDS = 0.025
DRAIN_INTERVAL_SECONDS = 1.0

SNAPSHOT_STATEMENT_SECONDS = 3600  # one check of the audit: that of 10 million transfers takes less than a minute
# Between two statements of a snapshot, or while the server sends a result that is not received. hledger and beancount
# read without a pause. In this time, commits leave up to 60,000 old versions of the journal's row at 500 per second.
SNAPSHOT_IDLE_SECONDS = 120
# An export as plain text. It takes 44 s for a million transfers if its output is read at once.
SNAPSHOT_SECONDS = 3600

# SQLSTATEs. After one of the first set, the pool's other connections are lost too, or lead to a demoted primary.
SERVER_STOPPED_CODES = {"57P01", "57P02", "57P03", "25006"}
# Also retried: class 08, and lost connections, which have no SQLSTATE.
RETRYABLE_CODES = SERVER_STOPPED_CODES | {"40001", "40P01"}
TIMED_OUT_CODES = {"57014", "55P03"}  # statement_timeout, lock_timeout
IDLE_CODE = "25P03"  # idle_in_transaction_session_timeout
CONNECTION_CLASS = "08"
EXHAUSTED_CLASS = "53"  # disk, memory or connections of the server: an immediate retry would add to the load
INTEGRITY_CLASS = "23"
NO_FREE_CONNECTION = (PoolTimeout, TooManyRequests)


class SnapshotEnded(psycopg.OperationalError):
    """A time limit of a snapshot has passed."""


class BeginAgain(Exception):
    """Raised by work that applied nothing of its request and must run again at once, on what is committed by now."""


class _Pool(ConnectionPool[Connection]):
    """A pool whose check of an idle connection has a deadline of its own: that of its last request may have passed."""

    @staticmethod
    def check_connection(conn: Connection) -> None:
        conn.deadline = time.monotonic() + POOL_CHECK_SECONDS
        ConnectionPool.check_connection(conn)


class Database:
    """Runs work on connections of a pool, and runs it again where that is safe and can help. Create it after the fork.

    `retried_constraints` names the constraints that only a race can violate: the next attempt sees the other's row.
    """

    def __init__(self, url: str, pool_size: int, retried_constraints: frozenset[str]) -> None:
        self._pool = _Pool(
            url,
            connection_class=Connection,
            kwargs=session.CONNECT,
            min_size=pool_size,
            open=True,  # starts to connect and does not wait for it
            configure=session.configure_in_time,
            max_waiting=MAX_WAITING,
            reconnect_timeout=RECONNECT_TIMEOUT_SECONDS,
            reconnect_failed=_Pool.check,  # else it stops connecting while expired waiters fill its queue
            name="ledger",
        )
        metrics.POOL.stats = self._pool.get_stats
        self._pool_size = pool_size
        self._retried_constraints = retried_constraints
        self._long_runs = threading.BoundedSemaphore(max(pool_size // 2, 1))
        self._lock = threading.Lock()
        self._drained_at = float("-inf")
        self._in_use: set[Connection] = set()

    def has_connection(self) -> bool:
        """Whether the pool has a connection, in use or idle."""
        return bool(self._in_use) or self._pool.get_stats().get("pool_available", 0) > 0

    def close(self) -> None:
        """Close the pool; connections in use are closed when they are returned."""
        self._pool.close()

    def run_long(self, work: Callable[[Connection], T]) -> T:
        """As `run`, for work that may keep a connection for long. All of it together uses at most half of them."""
        deadline = time.monotonic() + LIMITS.request_deadline_seconds
        if not self._long_runs.acquire(timeout=LIMITS.request_deadline_seconds):
            detail = "Too many batches, changes of accounts, long lists and trial balances are in progress."
            raise Refusal("deadline-exceeded", detail, outcome="not_applied")
        try:
            return self.run(work, deadline)
        finally:
            self._long_runs.release()

    def run(self, work: Callable[[Connection], T], deadline: float | None = None) -> T:
        """Run the work on a connection and return its result. `deadline` is that of the request, by default a new one.

        An error that may be temporary is retried. Raises Refusal if it persists; an error that is our own bug is raised
        as it is.
        """
        deadline = deadline or time.monotonic() + LIMITS.request_deadline_seconds
        outcome = "not_applied"
        for attempt in range(1, ATTEMPTS + 1):
            error: psycopg.Error
            try:
                with self._connection(deadline) as connection:
                    return _run_until_done(work, connection)
            except CommitUnknown as unknown:
                metrics.COMMIT_UNKNOWN.inc()
                error, outcome = unknown.error, "unknown"
            except psycopg.Error as raised:
                error = raised
            except Refusal as refusal:
                if "outcome" in refusal.members:  # it is about this attempt; an earlier one may have been applied
                    refusal.members["outcome"] = outcome
                raise
            _log(error, attempt, outcome)
            is_retryable, response = self._classify(error, outcome)
            pause = random.uniform(0, FIRST_PAUSE_SECONDS * 2**attempt)
            if attempt == ATTEMPTS or not is_retryable or time.monotonic() + pause > deadline:
                break
            self._drain_after(error)
            time.sleep(pause)
        raise response from error

    @contextmanager
    def _connection(self, deadline: float) -> Iterator[Connection]:
        requested_at = time.monotonic()
        seconds = deadline - requested_at
        if seconds < SHORTEST_WAIT_SECONDS:
            raise DeadlinePassed("the deadline of the request passed")
        with self._pool.connection(seconds) as connection:  # rolls back an open transaction if the work raises
            received_at = time.monotonic()
            logs.add_time("queue_ms", received_at - requested_at)
            connection.deadline = deadline
            self._in_use.add(connection)
            try:
                yield connection
            finally:
                self._in_use.remove(connection)
                logs.add_time("db_ms", time.monotonic() - received_at)

    def _classify(self, error: psycopg.Error, outcome: str) -> tuple[bool, Exception]:
        """Whether a retry may help, and what the caller gets without one. Decided by codes and names, not by texts."""
        code, constraint = error.sqlstate or "", error.diag.constraint_name or ""
        all_in_use = len(self._in_use) == self._pool_size  # if some are free, the pool could not connect
        if isinstance(error, NO_FREE_CONNECTION) and all_in_use:
            metrics.SHED.labels("pool").inc()
            return False, Refusal("overloaded", "All database connections are in use.", outcome=outcome)
        if isinstance(error, DeadlinePassed) or code in TIMED_OUT_CODES:
            detail = "The database did not respond within the time limit."
            return False, Refusal("deadline-exceeded", detail, outcome=outcome)
        is_retryable = is_lost(error) or code in RETRYABLE_CODES or code.startswith(CONNECTION_CLASS)
        is_retryable = is_retryable or constraint in self._retried_constraints
        if is_retryable or code.startswith(EXHAUSTED_CLASS):
            detail = "The database is not reachable or accepts no work."
            return is_retryable, Refusal("database-unavailable", detail, outcome=outcome)
        if code.startswith(INTEGRITY_CLASS):  # the rules should have refused this first
            metrics.CONSTRAINT_VIOLATIONS.inc()
            extra = {"event": "database.constraint_violated", "constraint": constraint, "sqlstate": code}
            logs.log.error("a constraint of the database refused what the rules accepted", extra=extra)
        return False, error

    def _drain_after(self, error: psycopg.Error) -> None:
        """If this error means that the idle connections are lost too, replace them, at most once a second."""
        if isinstance(error, (*NO_FREE_CONNECTION, CommitNotReplicated)):
            return
        if not is_lost(error) and error.sqlstate not in SERVER_STOPPED_CODES:
            return
        with self._lock:
            if time.monotonic() < self._drained_at + DRAIN_INTERVAL_SECONDS:
                return
            self._drained_at = time.monotonic()
        metrics.POOL_DRAINS.inc()
        self._pool.drain()


@contextmanager
def read_only_snapshot(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A block that reads one snapshot of the database and cannot write.

    VACUUM removes nothing that the snapshot may read, so the snapshot has time limits. The server ends the session of a
    process that is stopped, or that waits for its output to be read. Raises SnapshotEnded when the process goes on.
    """
    codes: list[str | None] = []  # if the end of the session arrives with an earlier result, it is a notice

    def keep_code(notice: psycopg.errors.Diagnostic) -> None:
        codes.append(notice.sqlstate)

    limits = {"statement": f"{SNAPSHOT_STATEMENT_SECONDS}s", "idle": f"{SNAPSHOT_IDLE_SECONDS}s"}
    connection.add_notice_handler(keep_code)
    try:
        with connection.transaction():
            connection.execute(
                SQL(
                    """
                    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
                    SET LOCAL statement_timeout = {statement};
                    SET LOCAL idle_in_transaction_session_timeout = {idle};
                    SET LOCAL tcp_user_timeout = {idle}
                    """
                ).format(**limits)
            )
            yield
    except psycopg.Error as error:
        if isinstance(error, DeadlinePassed) or IDLE_CODE in (error.sqlstate, *codes):
            raise SnapshotEnded(str(error)) from error
        raise
    finally:
        connection.remove_notice_handler(keep_code)


def _run_until_done(work: Callable[[Connection], T], connection: Connection) -> T:
    """Run the work, and run it again each time it raises BeginAgain. The deadline limits the repetitions."""
    while True:
        try:
            return work(connection)
        except BeginAgain:
            if time.monotonic() > connection.deadline:
                raise DeadlinePassed("the deadline of the request passed") from None


def _log(error: psycopg.Error, attempt: int, outcome: str) -> None:
    extra = {"event": "database.error", "attempt": attempt, "sqlstate": error.sqlstate, "outcome": outcome}
    logs.log.warning(f"database error: {type(error).__name__}", extra=extra)
