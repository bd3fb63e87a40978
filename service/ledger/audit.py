"""The audit: reads the books in one snapshot and proves them. It repairs nothing, and cannot: it is read only.

A check is one statement that returns only what is wrong. `since` is 0 for the whole books; otherwise what stands up to
that number is believed, and the rest is proven from there on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.sql import SQL

from service import database

MOST_ERRORS = 10  # of one check: enough to see what happened
# MATERIALIZED: a LIMIT is planned to find its rows at once, and an audit that finds none would pay for that.
FIRST_ERRORS = SQL("""
    WITH wrong (account, number, message) AS MATERIALIZED ({})
    SELECT account, number, message
    FROM wrong
    ORDER BY number, account
    LIMIT %(most)s
""")

# What database.SESSION sets is for short statements. What is sorted beyond work_mem goes to the server's disk.
SETTINGS = """
    SET LOCAL enable_seqscan = on;
    SET LOCAL work_mem = '64MB'
"""


@dataclass(frozen=True)
class Error:
    """One thing that is wrong; with neither account nor number if it is wrong with the books as a whole."""

    check: str
    account: str | None
    number: int | None
    message: str


@dataclass(frozen=True)
class Report:
    """What was read: all accounts, all holds, and the transfers after `since` up to `last_number`. What is wrong."""

    since: int
    last_number: int
    accounts: int
    transfers: int
    holds: int
    errors: list[Error]


def run(connection: Connection[Any], since: int = 0, show: Callable[[str], None] = lambda check: None) -> Report:
    """Prove the books after `since` in one transaction. The name of each check is shown before it runs."""
    errors = []
    parameters = {"since": since, "most": MOST_ERRORS}
    with database.one_moment(connection):
        connection.execute(SETTINGS)
        for check, statement in CHECKS.items():
            show(check)
            wrong = connection.execute(FIRST_ERRORS.format(SQL(statement)), parameters)
            errors += [Error(check, *row) for row in wrong]
        [(last_number, accounts, transfers, holds)] = connection.execute(
            """
            SELECT
                (SELECT coalesce(max(number), 0) FROM transfer),
                (SELECT count(*) FROM account),
                (SELECT count(*) FROM transfer WHERE number > %(since)s),
                (SELECT count(*) FROM hold)
            """,
            parameters,
        ).fetchall()
    return Report(since, last_number, accounts, transfers, holds, errors)


# Each returns account, number and a sentence. A transfer is posted if it has a number, which `numbers` proves.
CHECKS: dict[str, LiteralString] = {
    # From the account's last entry up to `since`, or from 0, each entry leads to the next, and the last one to the
    # balance of the account, which stands behind them without a number: it is all that came in less all that went out.
    "balances": """
        WITH entry AS (
            SELECT from_account AS account, number, -amount AS change, from_balance AS balance
            FROM transfer
            WHERE number > %(since)s
            UNION ALL
            SELECT to_account, number, amount, to_balance FROM transfer WHERE number > %(since)s
            UNION ALL
            SELECT id, NULL, 0, balance FROM account
        ), chain AS (
            SELECT account, number, change, balance, coalesce(
                lag(balance) OVER (PARTITION BY account ORDER BY number NULLS LAST),
                (
                    SELECT balance
                    FROM (
                        (SELECT number, from_balance AS balance FROM transfer
                        WHERE from_account = account AND number <= %(since)s ORDER BY number DESC LIMIT 1)
                        UNION ALL
                        (SELECT number, to_balance FROM transfer
                        WHERE to_account = account AND number <= %(since)s ORDER BY number DESC LIMIT 1)
                    ) AS last_on_each_side
                    ORDER BY number DESC
                    LIMIT 1
                ),
                0
            ) AS before
            FROM entry
        )
        SELECT account, number, concat('the balance is ', balance, ', the entries make ', before + change)
        FROM chain
        WHERE balance IS DISTINCT FROM before + change
    """,
    "currencies": """
        WITH entry AS (
            SELECT from_account AS account, number, id, currency FROM transfer WHERE number > %(since)s
            UNION ALL
            SELECT to_account, number, id, currency FROM transfer WHERE number > %(since)s
            UNION ALL
            SELECT from_account, NULL, id, currency FROM hold WHERE status = 'open'
        )
        SELECT entry.account, number,
            concat('the currency of ', entry.id, ' is ', entry.currency, ', of the account ', account.currency)
        FROM entry
        LEFT JOIN account ON account.id = entry.account
        WHERE entry.currency IS DISTINCT FROM account.currency
        UNION ALL
        SELECT NULL, NULL, concat('the balances in ', currency, ' sum to ', sum(balance))
        FROM account
        GROUP BY currency
        HAVING sum(balance) <> 0
    """,
    "held": """
        SELECT id, NULL::bigint, concat('it has ', held, ' held, its open holds are ', coalesce(total, 0))
        FROM account
        LEFT JOIN (
            SELECT from_account, sum(amount) AS total FROM hold WHERE status = 'open' GROUP BY from_account
        ) AS open ON from_account = id
        WHERE held <> coalesce(total, 0)
    """,
    "floors": """
        SELECT id, NULL::bigint, concat('it has ', balance - held, ' available, its floor is ', min_balance)
        FROM account
        WHERE balance - held < min_balance
    """,
    "numbers": """
        SELECT NULL, number, concat('the number before it is ', before)
        FROM (
            SELECT number, lag(number, 1, %(since)s::bigint) OVER (ORDER BY number) AS before
            FROM transfer
            WHERE number > %(since)s
        ) AS numbered
        WHERE number <> before + 1
        UNION ALL
        SELECT NULL, number, concat('the transfer ', id, ' is ', status, ', its amount is ', amount)
        FROM transfer
        WHERE (number > %(since)s OR %(since)s = 0)
            AND ((status = 'posted') <> (coalesce(number, 0) > 0) OR amount < 1)
    """,
    "times": """
        SELECT NULL, number, concat('it was posted at ', created_at, ', the one before it at ', before)
        FROM (
            SELECT number, created_at, lag(created_at) OVER (ORDER BY number) AS before
            FROM transfer
            WHERE number >= %(since)s
        ) AS posted
        WHERE created_at < before
    """,
    "journal": """
        SELECT NULL, last_number, concat('it was ', last_at, ', the last transfer is ', number, ' of ', created_at)
        FROM journal
        LEFT JOIN (
            SELECT number, created_at FROM transfer WHERE number > 0 ORDER BY number DESC LIMIT 1
        ) AS last_transfer ON true
        WHERE last_number <> coalesce(number, 0) OR last_at < created_at OR last_number < %(since)s
        UNION ALL
        SELECT NULL, NULL, concat('it has ', count(*), ' rows') FROM journal HAVING count(*) <> 1
    """,
    "captures": """
        SELECT coalesce(transfer.from_account, hold.from_account), number, CASE
            WHEN hold.id IS NULL THEN concat('it captures ', captures, ', which is no captured hold')
            WHEN transfer.id IS NULL THEN concat('no posted transfer captures the captured hold ', hold.id)
            ELSE concat('it takes ', transfer.amount, ' of the ', hold.amount, ' of ', hold.id, ' for ', captured_by)
        END
        FROM (
            SELECT id, from_account, to_account, amount, currency, captured_by FROM hold WHERE status = 'captured'
        ) AS hold
        FULL JOIN (
            SELECT id, number, from_account, to_account, amount, currency, captures
            FROM transfer
            WHERE status = 'posted' AND captures IS NOT NULL
        ) AS transfer ON captures = hold.id
        WHERE transfer.amount > hold.amount
            OR (transfer.id, transfer.from_account, transfer.to_account, transfer.currency)
                IS DISTINCT FROM (captured_by, hold.from_account, hold.to_account, hold.currency)
    """,
    "reversals": """
        SELECT reversal.from_account, reversal.number,
            concat('with it, ', reversed, ' of the ', original.amount, ' of ', reversal.reverses, ' are given back')
        FROM (
            SELECT number, from_account, to_account, currency, reverses,
                sum(amount) OVER (PARTITION BY reverses ORDER BY number) AS reversed
            FROM transfer
            WHERE number > 0 AND reverses IS NOT NULL
        ) AS reversal
        LEFT JOIN transfer AS original ON original.id = reversal.reverses AND original.number > 0
        WHERE reversal.number > %(since)s AND (
            reversed > original.amount OR reversal.number <= original.number
            OR (reversal.from_account, reversal.to_account, reversal.currency)
                IS DISTINCT FROM (original.to_account, original.from_account, original.currency)
        )
    """,
}
