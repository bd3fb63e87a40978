"""The rows of the ledger after a run, as the service shows them, read by statements of their own."""

from dataclasses import dataclass
from typing import Any

import psycopg

Row = dict[str, Any]


@dataclass(frozen=True)
class Lists:
    """What the service lists: the transfers of each reference, and the trial balance."""

    by_reference: dict[str, list[Row]]
    trial_balance: Row


@dataclass(frozen=True)
class Ledger:
    """All accounts, transfers and holds by id, the posted transfers by number, and what the service lists."""

    accounts: dict[str, Row]
    transfers: dict[str, Row]
    holds: dict[str, Row]
    lists: Lists

    @property
    def posted(self) -> list[Row]:
        return sorted((row for row in self.transfers.values() if row["number"]), key=lambda row: int(row["number"]))


def read(connection: psycopg.Connection[Any], lists: Lists) -> Ledger:
    """Read all rows. No client may write meanwhile."""
    accounts, transfers, holds = (_by_id(connection, statement) for statement in (ACCOUNTS, TRANSFERS, HOLDS))
    return Ledger(accounts, transfers, holds, lists)


def _by_id(connection: psycopg.Connection[Any], statement: str) -> dict[str, Row]:
    return {row["id"]: row for (row,) in connection.execute(statement.encode())}


# The names are those of the members of a response. `reason`, `account` and `available` are those of a decline.
TIME = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""
ACCOUNTS = f"""
    SELECT json_build_object(
        'id', id, 'currency', currency, 'balance', balance, 'held', held, 'min_balance', min_balance,
        'max_balance', max_balance, 'metadata', metadata, 'created_by', created_by,
        'created_at', to_char(created_at AT TIME ZONE 'UTC', {TIME})
    )
    FROM account
"""
TRANSFERS = f"""
    SELECT json_build_object(
        'id', id, 'number', number, 'status', status, 'from', from_account, 'to', to_account, 'amount', amount,
        'currency', currency, 'from_balance', from_balance, 'to_balance', to_balance, 'captures', captures,
        'reverses', reverses, 'reference', reference, 'metadata', metadata, 'created_by', created_by,
        'created_at', to_char(created_at AT TIME ZONE 'UTC', {TIME}),
        'reason', reason, 'account', declined_account, 'available', declined_available
    )
    FROM transfer
"""
# An open hold that has expired by the ledger's time is expired, although its row is not written yet.
HOLDS = f"""
    SELECT json_build_object(
        'id', id, 'status', CASE WHEN is_due THEN 'expired' ELSE status END, 'from', from_account, 'to', to_account,
        'amount', amount, 'currency', currency, 'captured_by', captured_by, 'reference', reference,
        'metadata', metadata, 'created_by', created_by,
        'expires_at', to_char(expires_at AT TIME ZONE 'UTC', {TIME}),
        'created_at', to_char(created_at AT TIME ZONE 'UTC', {TIME}),
        'resolved_at', to_char(CASE WHEN is_due THEN expires_at ELSE resolved_at END AT TIME ZONE 'UTC', {TIME}),
        'reason', reason, 'account', declined_account, 'available', declined_available
    )
    FROM hold
    CROSS JOIN LATERAL (SELECT status = 'open' AND expires_at <= last_at AS is_due FROM journal) AS ledger
"""
