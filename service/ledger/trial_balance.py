"""The trial balance: the sums of all balances, by currency."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from psycopg.sql import SQL

from service.ledger import clock
from service.ledger.types import CurrencyTotals, TrialBalance
from service.session import Connection

# One statement, so that its sums and its number are of one snapshot. `expired_until` has the same meaning as for an
# account. A row without a currency shows the number if there is no account.
_TOTALS = (
    SQL(
        """
        SELECT last_number, CASE WHEN expired_until > last_at THEN expired_until END AS expired_until,
            currency, accounts, credit, debit, held - coalesce(expired, 0) AS held
        FROM ({journal}) AS clock
        LEFT JOIN LATERAL (
            SELECT currency, count(*) AS accounts, coalesce(sum(balance) FILTER (WHERE balance > 0), 0) AS credit,
                coalesce(-sum(balance) FILTER (WHERE balance < 0), 0) AS debit, sum(held) AS held
            FROM account
            WHERE id >= %(prefix)s AND id < %(prefix)s || chr(127)
            GROUP BY currency
        ) AS total ON true
        LEFT JOIN LATERAL (
            SELECT currency, sum(amount) AS expired, max(expires_at) AS expired_until
            FROM hold
            WHERE from_account >= %(prefix)s AND from_account < %(prefix)s || chr(127)
                AND status = 'open' AND expires_at <= now
            GROUP BY currency
        ) AS unwritten USING (currency)
        ORDER BY currency COLLATE "C"
        """
    )
    .format(journal=clock.JOURNAL_NOW)
    .as_bytes()
)


def read_and_advance_time(connection: Connection, prefix: str) -> TrialBalance:
    """The sums of the accounts whose ids start with `prefix`.

    If an open hold of these accounts has expired, advances the ledger's time.
    """
    return clock.read_without_expired_holds(connection, partial(_select, connection, {"prefix": prefix}))


def _select(
    connection: Connection, parameters: Mapping[str, Any], as_of_last_at: bool
) -> tuple[TrialBalance, datetime | None]:
    """The trial balance, and the latest `expired_until`."""
    # A prepared statement would have one plan for every prefix, which expects 0.5 % of the accounts.
    rows = connection.execute(_TOTALS, {**parameters, "as_of_last_at": as_of_last_at}, prepare=False).fetchall()
    currencies = [
        CurrencyTotals(currency, accounts, int(credit), int(debit), int(held))
        for _, _, currency, accounts, credit, debit, held in rows
        if currency is not None
    ]
    expired_until = [until for _, until, *_ in rows if until]
    return TrialBalance(rows[0][0], currencies), max(expired_until, default=None)
