"""The rows of the ledger after a run, as the service shows them, read by statements of their own."""

from dataclasses import dataclass
from typing import Any

import psycopg

Row = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """All accounts, transfers and holds by id, and the posted transfers by number."""

    accounts: dict[str, Row]
    transfers: dict[str, Row]
    holds: dict[str, Row]

    @property
    def posted(self) -> list[Row]:
        return sorted((row for row in self.transfers.values() if row["number"]), key=lambda row: int(row["number"]))


def read(connection: psycopg.Connection[Any]) -> Ledger:
    """Read all rows. No client may write meanwhile."""
    return Ledger(*(_by_id(connection, statement) for statement in (ACCOUNTS, TRANSFERS, HOLDS)))


def _by_id(connection: psycopg.Connection[Any], statement: str) -> dict[str, Row]:
    return {row["id"]: row for (row,) in connection.execute(statement.encode())}


# The names are those of the members of a response. `reason`, `account` and `available` are those of a decline.
ACCOUNTS = "SELECT json_build_object('id', id, 'balance', balance, 'held', held, 'floor', min_balance) FROM account"
TIME = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""
TRANSFERS = f"""
    SELECT json_build_object(
        'id', id, 'number', number, 'status', status, 'from', from_account, 'to', to_account, 'amount', amount,
        'currency', currency, 'from_balance', from_balance, 'to_balance', to_balance, 'captures', captures,
        'reverses', reverses, 'metadata', metadata, 'created_by', created_by,
        'created_at', to_char(created_at AT TIME ZONE 'UTC', {TIME}),
        'reason', reason, 'account', declined_account, 'available', declined_available
    )
    FROM transfer
"""
# An open hold that has expired by the ledger's time is expired, although its row is not written yet.
HOLDS = f"""
    SELECT json_build_object(
        'id', id, 'status', CASE WHEN is_due THEN 'expired' ELSE status END, 'from', from_account, 'to', to_account,
        'amount', amount, 'currency', currency, 'captured_by', captured_by, 'metadata', metadata,
        'expires_at', to_char(expires_at AT TIME ZONE 'UTC', {TIME}), 'created_by', created_by,
        'created_at', to_char(created_at AT TIME ZONE 'UTC', {TIME}),
        'resolved_at', to_char(CASE WHEN is_due THEN expires_at ELSE resolved_at END AT TIME ZONE 'UTC', {TIME}),
        'reason', reason, 'account', declined_account, 'available', declined_available
    )
    FROM hold
    CROSS JOIN LATERAL (SELECT status = 'open' AND expires_at <= last_at AS is_due FROM journal) AS ledger
"""
