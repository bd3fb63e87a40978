"""One connection to PostgreSQL: its settings, its messages, COMMIT, and the deadline of the request that uses it.

- A request succeeds only after the server has confirmed COMMIT with the command tag COMMIT, and without a warning.
- An error before COMMIT was sent, or an error of severity ERROR in response to it, means `not_applied`. Otherwise the
  outcome is `unknown`: CommitUnknown.
- No posting and no COMMIT is sent after the deadline of the request.
"""

import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import Any, LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg import generators, waiting
from psycopg.errors import Diagnostic
from psycopg.pq import ConnStatus
from psycopg.pq.abc import PGcancelConn
from psycopg.rows import RowFactory, TupleRow, tuple_row
from psycopg.sql import SQL, Composed

from service import VERSION
from service.contract import LIMITS

T = TypeVar("T")

# For the settings of a new connection, after connecting. A server that authenticates and then does not respond would
# otherwise keep the pool's workers until none is left.
CONFIGURE_SECONDS = 3.0
# To cancel the statement of a request whose deadline has passed. A thread of its own sends it, so no request waits.
CANCEL_SECONDS = 3.0

CONNECT: dict[str, Any] = {
    "autocommit": True,  # BEGIN and COMMIT are explicit statements
    # The shortest that psycopg accepts. A URL with several hosts is tried in order, and a frozen one costs this time.
    "connect_timeout": 2,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
    "application_name": f"ledger/{VERSION}",
}
LOCK_TIMEOUT_MILLISECONDS = 1000  # for one wait
# SET ROLE removes every privilege except the service's own, whatever the login may do.
# client_min_messages: without the warning, a COMMIT whose wait for the standby was cancelled seems to be replicated.
# idle_in_transaction_session_timeout ends the session of a process that is stopped between its locks and its writes. It
# is the deadline of a request, after which no request sends anything.
# The keepalives are those of CONNECT, for the server's side of a connection to a machine that is gone.
# client_connection_check_interval cancels the statement of a client that is gone: without it, the update of a dead
# client waited for its row lock and was then applied.
# enable_seqscan: every statement reads through an index. A plan that was made while the tables were empty used
# sequential scans until its session ended: 3,420 transfers per second in batches of 100 (docs/performance.md).
# jit: compiling takes 40 ms, and up to PostgreSQL 17 the cost of an unavoidable scan triggers it for short statements.
SESSION = f"""
    SET ROLE ledger_service;
    SET TIME ZONE 'UTC';
    SET DateStyle = 'ISO';
    SET client_encoding = 'UTF8';
    SET client_min_messages = 'warning';
    SET default_transaction_isolation = 'read committed';
    SET statement_timeout = '3s';
    SET lock_timeout = '{LOCK_TIMEOUT_MILLISECONDS}ms';
    SET idle_in_transaction_session_timeout = '{LIMITS.request_deadline_seconds}s';
    SET idle_session_timeout = 0;
    SET tcp_keepalives_idle = 30;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = '10000ms';
    SET client_connection_check_interval = '500ms';
    SET enable_seqscan = off;
    SET jit = off
"""

# Settings of the server with which it keeps an acknowledged commit, and their accepted values. With `local` and
# `remote_write`, a failover to a standby can lose it.
DURABLE: dict[LiteralString, tuple[str, ...]] = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply"),
}

# How far the database's clock may be ahead of the service's. The ledger's time never goes back: if the database's clock
# were a day ahead for one posting, open holds would expire a day early, and new ones would be declined for a day.
# Synchronized clocks differ by less than a second.
CLOCK_MAX_AHEAD_SECONDS = 60

CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)


class DeadlinePassed(psycopg.OperationalError):
    """The request's deadline passed before the database responded."""


class NotCommitted(psycopg.OperationalError):
    """COMMIT was confirmed with another command tag: the transaction was rolled back."""


class CommitNotReplicated(psycopg.OperationalError):
    """COMMIT was confirmed with a warning: the wait for the synchronous standby was cancelled.

    The transaction is committed on this server. A failover can lose it.
    """


class CommitUnknown(Exception):
    """COMMIT was sent, and it is not known whether the transaction is committed and survives a failover."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


class Statement(NamedTuple):
    """An SQL statement, its parameters, and the factory of its rows."""

    text: LiteralString | bytes | Composed
    parameters: Mapping[str, Any] | None = None
    row_factory: RowFactory[Any] = tuple_row


BEGIN, ROLLBACK = Statement("BEGIN"), Statement("ROLLBACK")


class Connection(psycopg.Connection[TupleRow]):
    """A connection with the deadline of the current request."""

    deadline = float("inf")  # of time.monotonic()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._has_warned = False
        self.add_notice_handler(self._note_warning)

    def fetch_together(self, *statements: Statement) -> list[list[Any]]:
        """Send the statements as one message, and return the rows of each.

        After this message, idle_in_transaction_session_timeout counts. After a psycopg pipeline it does not: the
        pipeline ends with a Flush message, which stops the timer, and locks were kept as long as the process was
        stopped. One message also takes half the CPU time of a pipeline (0.31 instead of 0.62 ms for five statements).
        """
        self._require_time()
        cursor = psycopg.ClientCursor(self)
        texts = [cursor.mogrify(statement.text, statement.parameters) for statement in statements]
        cursor.execute(";".join(texts).encode())
        rows: list[list[Any]] = []
        for statement, result in zip(statements, cursor.results(), strict=True):
            result.row_factory = statement.row_factory
            rows.append(result.fetchall() if result.description else [])
        return rows

    def execute_and_commit(
        self, statements: LiteralString | Composed, parameters: Mapping[str, Any]
    ) -> TupleRow | None:
        """Send statements that end with COMMIT as one message; the last row that they return, if any.

        The server starts only when it has the whole message. So a process that is stopped, or a network that is stuck,
        cannot hold the locks of these statements before COMMIT has arrived. In pipeline mode each statement is a
        message of its own. Raises CommitUnknown if the connection is lost, or if the server warns.
        """
        self._require_time()  # before the block below: nothing is sent, so the outcome is known
        cursor = psycopg.ClientCursor(self)  # binds parameters in the client; the server binds single statements only
        row = None
        self._has_warned = False
        try:
            cursor.execute(statements, parameters)
            for result in cursor.results():
                if result.description:
                    row = result.fetchone()
        except psycopg.Error as error:
            if is_lost(error):
                raise CommitUnknown(error) from error
            raise
        if cursor.statusmessage != "COMMIT":
            raise NotCommitted(f"COMMIT was confirmed with {cursor.statusmessage}")
        if self._has_warned:
            raise CommitUnknown(CommitNotReplicated("COMMIT was confirmed with a warning"))
        return row

    def wait(self, gen: Generator[Any, Any, T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait like psycopg, but not past the deadline: no server setting limits COMMIT or a lost network."""
        if self.deadline != float("inf"):
            timeout = max(self.deadline - time.monotonic(), 0.001)
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if time.monotonic() < self.deadline:
                raise
            self._give_up()
            raise DeadlinePassed("the deadline of the request passed") from error

    def _note_warning(self, notice: Diagnostic) -> None:
        self._has_warned = self._has_warned or notice.severity_nonlocalized == "WARNING"

    def _require_time(self) -> None:
        """Raise DeadlinePassed, and end the session, if the deadline has passed: its locks are free at once."""
        if time.monotonic() >= self.deadline:
            self.pgconn.finish()
            raise DeadlinePassed("the deadline of the request passed")

    def _give_up(self) -> None:
        """End the session, and the statement that it runs.

        A COMMIT that waits for a standby does not notice that its client is gone, and keeps its locks.
        """
        if self.pgconn.status == ConnStatus.OK:
            cancel = self.pgconn.cancel_conn()  # a copy of what it needs
            threading.Thread(target=_send_cancel, args=[cancel], daemon=True).start()
        self.pgconn.finish()


def connect(url: str) -> Connection:
    """A connection outside the pool, not configured, without a deadline. Raises psycopg.Error."""
    return Connection.connect(url, **CONNECT)


def configure(connection: psycopg.Connection[Any]) -> None:
    """Apply the service's role and settings to a new connection."""
    connection.execute(SESSION)


def configure_in_time(connection: Connection) -> None:
    """As `configure`, for the pool. What the pool sends later has the deadline of the request before."""
    connection.deadline = time.monotonic() + CONFIGURE_SECONDS
    configure(connection)


def find_unsafe_settings(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The settings of the server with which it can lose an acknowledged commit, and their values."""
    found = {}
    for name, accepted in DURABLE.items():
        (value,) = connection.execute(SQL("SHOW {}").format(SQL(name))).fetchone() or ("",)
        if value not in accepted:
            found[name] = str(value)
    return found


def is_lost(error: psycopg.Error) -> bool:
    """Whether the error ended the connection, so that no response to a COMMIT can come any more."""
    if error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
        return True
    return error.sqlstate is None and isinstance(error, CONNECTION_ERRORS)


def _send_cancel(cancel: PGcancelConn) -> None:
    """Ask the server to cancel what a session runs. If it cannot be reached, its own timeouts apply."""
    with suppress(psycopg.Error):
        cancel.start()
        waiting.wait_conn(generators.cancel(cancel), interval=0.1, timeout=CANCEL_SECONDS)
    cancel.finish()
