"""The pool, COMMIT, the deadline of a request, and what may be tried again. Knows no table.

The law of this module: success is told only after the server answered COMMIT with the tag COMMIT. An error before
COMMIT was sent, or of severity ERROR in answer to it, means *not applied*. A connection lost after COMMIT was sent
means *unknown*, and the cure is to do the same on a fresh connection: ids make every write safe to repeat.
"""

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from service import VERSION, logs, metrics
from service.contract import LIMITS
from service.ledger.errors import CONSTRAINTS, RACES, Refusal

T = TypeVar("T")

POOL_TIMEOUT_SECONDS = 1.0  # waiting longer for a connection only makes everybody's queue longer
RECONNECT_TIMEOUT_SECONDS = 3.0  # the pool's own back-off has no cap: 18 s without a connection after 40 s of outage
MAX_WAITING = 128  # one per thread of the server; who waited in vain counts until a connection comes
ATTEMPTS = 3
# A random pause, up to twice this before the second attempt and four times before the third.
FIRST_PAUSE_SECONDS = 0.025
DRAIN_EVERY_SECONDS = 1.0

CONNECT: dict[str, Any] = {
    "autocommit": True,  # BEGIN and COMMIT are said where they are meant
    "connect_timeout": 3,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
    "application_name": f"ledger/{VERSION}",
}
# The role drops every right but the service's own, whatever the login may do. client_connection_check_interval ends the
# statement of a client that died: without it, a dead client's update waited for its row lock and was then applied.
# enable_seqscan: every statement reads through an index; a plan made while tables were empty read them whole for ever
# after, and posted 3,420 transfers a second in batches of 100 instead of 8,480 (docs/figures.md). jit: compiling takes
# 40 ms, and up to PostgreSQL 17 the cost of a scan that cannot be avoided makes a short statement compile.
SESSION = """
    SET ROLE ledger_service;
    SET TIME ZONE 'UTC';
    SET default_transaction_isolation = 'read committed';
    SET statement_timeout = '3s';
    SET lock_timeout = '1s';
    SET idle_in_transaction_session_timeout = '10s';
    SET client_connection_check_interval = '500ms';
    SET enable_seqscan = off;
    SET jit = off
"""

LOST = {"57P01", "57P02", "57P03", "25006"}  # the pool's other connections are dead too, or at a demoted primary
PASSING = LOST | {"40001", "40P01"}  # with class 08, and lost connections, which have no code
TIMED_OUT = {"57014", "55P03"}  # statement_timeout, lock_timeout
NOT_LENT = (PoolTimeout, TooManyRequests)
LOST_KINDS = (psycopg.OperationalError, psycopg.InterfaceError)  # what carries no code otherwise is a fault of the call
EXHAUSTED_CLASS = "53"  # disk, memory or connections of the server: trying again at once makes it worse
CONNECTION_CLASS = "08"


class DeadlinePassed(psycopg.OperationalError):
    """The request's time was over before the database answered; the connection was closed."""


class NotCommitted(psycopg.OperationalError):
    """COMMIT was answered with another tag: the transaction was rolled back."""


class Connection(psycopg.Connection[TupleRow]):
    """A connection that keeps the deadline of the request in hand and knows whether COMMIT was sent."""

    deadline = float("inf")  # of time.monotonic()
    commit_sent = False

    def execute_and_commit(self, statements: LiteralString, parameters: Mapping[str, Any]) -> TupleRow | None:
        """Send statements that end with COMMIT as one message, and return the row that they return, if any.

        The server begins when it has all of it, so that what they lock is never held by a process that is stopped, or
        by a network that is stuck, before COMMIT arrived. In pipeline mode each statement is a message of its own.
        """
        cursor = psycopg.ClientCursor(self)  # binds parameters here; the server binds them to single statements only
        self.commit_sent = True
        cursor.execute(statements, parameters)
        row = None
        for result in cursor.results():
            if result.description:
                row = result.fetchone()
        if cursor.statusmessage != "COMMIT":
            raise NotCommitted(f"COMMIT was answered with {cursor.statusmessage}")
        return row

    def wait(self, gen: Generator[Any, Any, T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait as psycopg does, but never past the deadline: no server setting bounds COMMIT or a dead network."""
        if self.deadline != float("inf"):
            timeout = max(self.deadline - time.monotonic(), 0.001)
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if time.monotonic() < self.deadline:
                raise
            self.pgconn.finish()
            raise DeadlinePassed("the deadline of the request passed") from error


class Database:
    """Lends connections to work, and repeats the work where that is safe and may help. Make it after the fork."""

    def __init__(self, url: str, pool_size: int) -> None:
        self._pool = ConnectionPool(
            url,
            connection_class=Connection,
            kwargs=CONNECT,
            min_size=pool_size,
            open=True,  # begins to connect, without waiting for it
            configure=configure,
            timeout=POOL_TIMEOUT_SECONDS,
            max_waiting=MAX_WAITING,
            reconnect_timeout=RECONNECT_TIMEOUT_SECONDS,
            reconnect_failed=ConnectionPool.check,  # begins anew: else nobody connects again while so many wait
            name="ledger",
        )
        metrics.OPEN_POOLS.append(self._pool.get_stats)
        self._pool_size = pool_size
        self._lent: set[Connection] = set()
        self._drained_at = float("-inf")
        self._lock = threading.Lock()  # guards the one above

    def close(self) -> None:
        metrics.OPEN_POOLS.remove(self._pool.get_stats)
        self._pool.close()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do the work on a connection and return what it returns.

        Within the deadline the work is done again where the fault may pass. Raises Refusal when it did not pass; a
        fault that is our own mistake is raised as it is.
        """
        deadline = time.monotonic() + LIMITS.request_deadline_seconds
        outcome = "not_applied"
        for attempt in range(1, ATTEMPTS + 1):
            connection: Connection | None = None
            try:
                with self._lend(deadline) as connection:
                    return work(connection)
            except psycopg.Error as error:
                fault = error
            if connection and connection.commit_sent and _is_lost(fault):
                metrics.COMMIT_UNKNOWN.inc()
                outcome = "unknown"
            logs.log.warning(
                f"the work failed: {type(fault).__name__}",
                extra={"event": "database.fault", "attempt": attempt, "sqlstate": fault.sqlstate, "outcome": outcome},
            )
            may_pass, told = self._judge(fault, outcome)
            pause = random.uniform(0, FIRST_PAUSE_SECONDS * 2**attempt)
            if attempt == ATTEMPTS or not may_pass or time.monotonic() + pause > deadline:
                break
            self._drain_after(fault)
            time.sleep(pause)
        raise told from fault

    @contextmanager
    def _lend(self, deadline: float) -> Iterator[Connection]:
        asked_at = time.monotonic()
        with self._pool.connection() as connection:  # which rolls back what the work leaves open when it raises
            lent_at = time.monotonic()
            logs.add_time("queue_ms", lent_at - asked_at)
            connection.deadline, connection.commit_sent = deadline, False
            self._lent.add(connection)
            try:
                yield connection
            finally:
                self._lent.remove(connection)
                logs.add_time("db_ms", time.monotonic() - lent_at)

    def _judge(self, fault: psycopg.Error, outcome: str) -> tuple[bool, Exception]:
        """Whether the fault may pass, and what the caller is told: from codes and names alone, never from English."""
        code, constraint = fault.sqlstate or "", fault.diag.constraint_name or ""
        if slug := CONSTRAINTS.get(constraint):
            return False, Refusal(slug, "The database refused the transfer by its own rule. Nothing was applied.")
        is_busy = len(self._lent) == self._pool_size  # if one waited in vain and it is not, the database is away
        if isinstance(fault, NOT_LENT) and is_busy:
            metrics.SHED.labels("pool").inc()
            return False, Refusal("overloaded", "All database connections are taken.", outcome=outcome)
        if isinstance(fault, DeadlinePassed) or code in TIMED_OUT:
            return False, Refusal("deadline-exceeded", "The database took too long.", outcome=outcome)
        is_gone = not code and isinstance(fault, LOST_KINDS)
        may_pass = is_gone or code in PASSING or code.startswith(CONNECTION_CLASS) or constraint in RACES
        if may_pass or code.startswith(EXHAUSTED_CLASS):
            told = Refusal("database-unavailable", "The database is away or refuses to work.", outcome=outcome)
            return may_pass, told
        return False, fault

    def _drain_after(self, fault: psycopg.Error) -> None:
        """Replace the idle connections, at most once a second, when this fault says that they are dead too."""
        if isinstance(fault, NOT_LENT) or not (fault.sqlstate is None or fault.sqlstate in LOST):
            return
        with self._lock:
            if time.monotonic() < self._drained_at + DRAIN_EVERY_SECONDS:
                return
            self._drained_at = time.monotonic()
        metrics.POOL_DRAINS.inc()
        self._pool.drain()


def configure(connection: psycopg.Connection[Any]) -> None:
    """Make a new connection the service's."""
    connection.execute(SESSION)


def connect(url: str) -> Connection:
    """A connection outside the pool, not yet the service's, and without a deadline. Raises psycopg.Error."""
    return Connection.connect(url, **CONNECT)


@contextmanager
def one_moment(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A block that reads the books of one moment, however long it takes, and writes nothing."""
    with connection.transaction():
        connection.execute(
            """
            SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
            SET LOCAL statement_timeout = 0;
            SET LOCAL idle_in_transaction_session_timeout = 0
            """
        )
        yield


def _is_lost(fault: psycopg.Error) -> bool:
    """Whether the fault ended the connection, and the answer to a COMMIT with it."""
    if isinstance(fault, NotCommitted) or not isinstance(fault, LOST_KINDS):
        return False
    return fault.sqlstate is None or fault.diag.severity_nonlocalized in ("FATAL", "PANIC")
