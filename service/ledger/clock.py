"""The ledger's time: the database's clock, but never behind the newest posting.

A hold expires at `expires_at` without a background job: reads leave it out from that time on, and the next posting on
its account, or change of it, writes the status `expired`.
"""

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

from psycopg.rows import class_row
from psycopg.sql import SQL

from service import session
from service.database import BeginAgain
from service.errors import Refusal
from service.session import CommitUnknown, Connection, Statement

# Any number of holds can expire on an account without activity. This many take about 50 ms (bench/expiry.py). Each
# commit is kept, so a retry continues: 500,000 in one commit did not finish within a request's deadline.
HOLDS_EXPIRED_PER_COMMIT = 5000

T = TypeVar("T")

# The journal with the time at which a read decides which holds have expired: see read_without_expired_holds.
JOURNAL_NOW = SQL(
    """
    SELECT last_number, last_at,
        CASE WHEN %(as_of_last_at)s THEN last_at ELSE greatest(clock_timestamp(), last_at) END AS now
    FROM journal
    """
)


class Times(NamedTuple):
    """What a transaction reads about time, under the locks of its accounts."""

    database_time: datetime
    now: datetime  # the ledger's time
    has_expired_holds: bool  # an open hold of the accounts has expired
    is_replicated: bool  # commits wait for a synchronous standby


def read(accounts: Collection[str]) -> Statement:
    """One row: the Times for these accounts."""
    return Statement(
        """
        SELECT database_time, now, current_setting('synchronous_standby_names') <> '' AS is_replicated, EXISTS (
            SELECT FROM hold WHERE from_account = ANY(%(accounts)s) AND status = 'open' AND expires_at <= now
        ) AS has_expired_holds
        FROM (
            SELECT database_time, greatest(database_time, last_at) AS now
            FROM journal
            CROSS JOIN (SELECT clock_timestamp() AS database_time) AS clock
        ) AS clocks
        """,
        {"accounts": list(accounts)},
        class_row(Times),
    )


def read_database_time(connection: Connection) -> datetime:
    """The clock of the database."""
    [(time,)] = connection.execute("SELECT clock_timestamp()")
    assert isinstance(time, datetime)
    return time


def latest_accepted() -> datetime:
    """The latest time of the database that is accepted."""
    return datetime.now(UTC) + timedelta(seconds=session.CLOCK_MAX_AHEAD_SECONDS)


def expire_holds(connection: Connection, accounts: Collection[str], times: Times) -> None:
    """Prepare a transaction that has locked these accounts and read the Times.

    If holds of theirs have expired, writes their status, commits, and raises BeginAgain: the transaction must start
    again. Raises Refusal `clock-ahead`.
    """
    require_accepted(times.database_time)
    if times.has_expired_holds:
        _write_expired(connection, accounts, times.now)
        raise BeginAgain


def require_accepted(database_time: datetime) -> None:
    """Raise Refusal `clock-ahead` if the database's clock is too far ahead of the service's."""
    if database_time > latest_accepted():
        ahead = (database_time - datetime.now(UTC)).total_seconds()
        detail = f"The clock of the database is {ahead:.0f} s ahead of the clock of the service."
        raise Refusal("clock-ahead", detail, outcome="not_applied")


def find_expired(connection: Connection, accounts: Collection[str]) -> frozenset[str]:
    """Those of the accounts that have an open hold that has expired."""
    found = connection.execute(
        """
        SELECT account
        FROM unnest(%(accounts)s::text[]) AS named (account)
        CROSS JOIN (SELECT greatest(clock_timestamp(), last_at) AS now FROM journal) AS clock
        WHERE EXISTS (SELECT FROM hold WHERE from_account = account AND status = 'open' AND expires_at <= now)
        """,
        {"accounts": list(accounts)},
    )
    return frozenset(id for (id,) in found)


def _write_expired(connection: Connection, accounts: Collection[str], now: datetime) -> None:
    """Write the status of holds of these locked accounts that have expired, HOLDS_EXPIRED_PER_COMMIT at most."""
    try:
        connection.execute_and_commit(
            """
            WITH expired AS (
                UPDATE hold
                SET status = 'expired', resolved_at = expires_at
                WHERE id IN (
                    SELECT id
                    FROM hold
                    WHERE from_account = ANY(%(accounts)s) AND status = 'open' AND expires_at <= %(now)s
                    LIMIT %(limit)s
                )
                RETURNING from_account, amount
            )
            UPDATE account
            SET held = held - freed.amount
            FROM (SELECT from_account, sum(amount) AS amount FROM expired GROUP BY from_account) AS freed
            WHERE id = from_account;
            COMMIT
            """,
            {"accounts": list(accounts), "now": now, "limit": HOLDS_EXPIRED_PER_COMMIT},
        )
    except CommitUnknown as unknown:  # nothing of the caller's request was in this transaction
        raise unknown.error from None


def advance_past(connection: Connection, at: datetime) -> int | None:
    """Advance the ledger's time past `at`; the number of the last transfer up to `at`, None if `at` is not in the past.

    Every later call returns the same number, because no posting gets a time up to `at` any more. If the time is past
    `at` already, nothing is written. Else the statement waits for a posting that holds the journal row, and a posting
    that waits for the row gets a later time. Raises Refusal `clock-ahead`.
    """
    number = find_final_number(connection, at)
    if number is None:
        require_accepted(read_database_time(connection))
        connection.execute(
            """
            UPDATE journal
            SET last_at = %(at)s + interval '1 microsecond'
            WHERE only_row AND last_at <= %(at)s AND %(at)s < clock_timestamp()
            """,
            {"at": at},
        )
        number = find_final_number(connection, at)
    return number


def advance_past_expiry(connection: Connection, expires_at: datetime) -> None:
    """Advance the ledger's time to the `expires_at` of a hold that has expired, so that it stays expired.

    Raises Refusal `clock-ahead`, also if the clock was set back since the hold was found expired.
    """
    if advance_past(connection, expires_at - timedelta(microseconds=1)) is None:
        raise Refusal("clock-ahead", "The clock of the database was set back.", outcome="not_applied")


def read_without_expired_holds(connection: Connection, read: Callable[[bool], tuple[T, datetime | None]]) -> T:
    """What `read` returns, without the holds that have expired.

    `read(as_of_last_at)` also returns the latest `expires_at` of the holds that it leaves out, None if the journal's
    time is past it. A capture that got its time before its hold expired may still be committing. If that is possible,
    this advances the ledger's time, which waits for such a capture, and reads again as of the journal's time. No
    transfer that this read does not see can get an earlier time.
    """
    found, expired_until = read(False)
    if expired_until:
        advance_past_expiry(connection, expired_until)
        found, _ = read(True)
    return found


def find_final_number(connection: Connection, at: datetime) -> int | None:
    """The number of the last transfer up to `at`; None unless the ledger's time is past `at`."""
    row = connection.execute(final_number(), {"at": at}).fetchone()
    return int(row[0]) if row else None


def final_number() -> SQL:
    """The statement that selects the number of the last transfer up to %(at)s, if the ledger's time is past %(at)s."""
    return SQL(
        """
        SELECT coalesce(number, 0) AS number
        FROM journal
        LEFT JOIN LATERAL (
            SELECT number
            FROM transfer
            WHERE created_at <= %(at)s AND number IS NOT NULL
            ORDER BY created_at DESC, number DESC
            LIMIT 1
        ) AS newest ON true
        WHERE last_at > %(at)s
        """
    )
