"""The test database: its URLs, its clock, and how it is emptied."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from service import config

# The value of CALLERS for the caller `development`, which has all scopes.
DEVELOPMENT = (
    '[{"name": "development", "scopes": ["read", "write", "admin"], '
    f'"token_sha256": ["{config.DEVELOPMENT_TOKEN_SHA256}"]}}]'
)
TABLES = ("account_change", "transfer", "hold", "account")

# A block that must not change any row.
Unchanged = Callable[[], AbstractContextManager[None]]

# Replaces the function clock_timestamp() for the service: it returns the real time until a test changes the row of
# `setting`. The migrations run before, so the defaults of columns use the real time.
CLOCK = """
    CREATE SCHEMA clock;
    CREATE TABLE clock.setting (stopped_at timestamptz, ahead interval NOT NULL DEFAULT '0');
    INSERT INTO clock.setting DEFAULT VALUES;
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
        AS 'SELECT coalesce(stopped_at, pg_catalog.clock_timestamp()) + ahead FROM clock.setting';
    GRANT USAGE ON SCHEMA clock TO PUBLIC;
    GRANT SELECT ON clock.setting TO PUBLIC;
    DO $$
    BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = clock, pg_catalog, public', current_database());
    END
    $$
"""


@dataclass(frozen=True)
class Urls:
    """The URLs of one database: for the service's role and for the owner of the tables."""

    service: str
    owner: str

    def database(self, name: str) -> "Urls":
        """The URLs of another database of the same server."""
        return Urls(make_conninfo(self.service, dbname=name), make_conninfo(self.owner, dbname=name))


class Clock:
    """The database's clock, as the service sees it."""

    def __init__(self, owner: psycopg.Connection[Any]) -> None:
        self._owner = owner

    def now(self) -> datetime:
        (now,) = self._owner.execute("SELECT clock.clock_timestamp()").fetchone() or (None,)
        assert isinstance(now, datetime)
        return now.astimezone(UTC)

    def stop(self, at: datetime | None = None) -> datetime:
        """Stop the clock at a time, by default now. Returns that time."""
        stopped_at = at or self.now()
        self._owner.execute("UPDATE clock.setting SET stopped_at = %s, ahead = '0'", [stopped_at])
        return stopped_at

    def turn(self, **ahead: float) -> datetime:
        """Advance the clock by hours=, seconds= or microseconds=, also if it is stopped. Returns its new time."""
        self._owner.execute("UPDATE clock.setting SET ahead = ahead + %s", [timedelta(**ahead)])
        return self.now()

    def reset(self) -> None:
        """Return to the real time."""
        self._owner.execute("UPDATE clock.setting SET stopped_at = NULL, ahead = '0'")


def empty(owner: psycopg.Connection[Any]) -> None:
    """Delete all rows except the journal. Holds and transfers reference each other: one statement deletes both."""
    owner.execute("DELETE FROM account_change")
    owner.execute("WITH emptied AS (DELETE FROM hold) DELETE FROM transfer")
    owner.execute("DELETE FROM account")
    owner.execute("UPDATE journal SET last_number = 0, last_at = clock_timestamp()")


def drop(owner: psycopg.Connection[Any], database: str) -> None:
    """Drop the database. The server waits 5 s for sessions that are ending; under load one wait may be too short."""
    try:
        owner.execute(f"DROP DATABASE {database}")
    except psycopg.errors.ObjectInUse:
        owner.execute(f"DROP DATABASE {database}")
