"""The audit: checks the integrity of the ledger in one snapshot. It is read only and repairs nothing.

A check is one statement that returns only errors. If `since` is 0, the audit checks all transfers. Otherwise it trusts
the transfers up to this number and checks the later ones, starting from the last balances up to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.sql import SQL

from service import database

MAX_FINDINGS = 10  # of one check: enough to find the cause


@dataclass(frozen=True)
class Finding:
    """One error. Account or number is None if the error is not about one account or one transfer."""

    check: str
    account: str | None
    number: int | None
    message: str


@dataclass(frozen=True)
class Report:
    """The counts of what was read, and the errors. `transfers` counts those after `since`, up to `last_number`."""

    since: int
    last_number: int
    accounts: int
    transfers: int
    holds: int
    errors: list[Finding]


def run(connection: Connection[Any], since: int = 0, on_check: Callable[[str], None] | None = None) -> Report:
    """Run all checks in one transaction. `on_check` is called with the name of each check before it runs."""
    errors = []
    with database.read_only_snapshot(connection):
        # The settings of session.SESSION suit short statements. Beyond work_mem, a sort uses the server's disk.
        connection.execute("SET LOCAL enable_seqscan = on; SET LOCAL work_mem = '64MB'")
        for check in CHECKS:
            if on_check:
                on_check(check)
            errors += _find(connection, check, since)
        [(last_number, accounts, transfers, holds)] = connection.execute(
            """
            SELECT
                (SELECT coalesce(max(number), 0) FROM transfer),
                (SELECT count(*) FROM account),
                (SELECT count(*) FROM transfer WHERE number > %(since)s),
                (SELECT count(*) FROM hold)
            """,
            {"since": since},
        ).fetchall()
    return Report(since, last_number, accounts, transfers, holds, errors)


def _find(connection: Connection[Any], check: str, since: int) -> list[Finding]:
    """The first MAX_FINDINGS errors of a check, by number."""
    # Without MATERIALIZED, PostgreSQL plans the check as if its first rows came early. With no errors that is slow.
    statement = SQL("""
        WITH finding (account, number, message) AS MATERIALIZED ({})
        SELECT account, number, message
        FROM finding
        ORDER BY number, account
        LIMIT %(limit)s
    """).format(SQL(CHECKS[check]))
    rows = connection.execute(statement, {"since": since, "limit": MAX_FINDINGS})
    return [Finding(check, *row) for row in rows]


# Each returns account, number and a sentence. They treat a transfer with a number as posted, which `numbers` verifies.
CHECKS: dict[str, LiteralString] = {
    # A chain for each account: it begins with the balance of the last entry up to `since`, or 0. Each entry adds its
    # change. The last link, without a number and with the change 0, is the balance of the account.
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
        SELECT account, number, concat('the balance is ', balance, ', expected ', before + change)
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
            UNION ALL
            SELECT to_account, NULL, id, currency FROM hold WHERE status = 'open'
        )
        SELECT entry.account, number,
            concat('the currency of ', entry.id, ' is ', entry.currency, ', that of the account is ', account.currency)
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
        SELECT id, NULL::bigint, concat('the held amount is ', held, ', the open holds sum to ', coalesce(total, 0))
        FROM account
        LEFT JOIN (
            SELECT from_account, sum(amount) AS total FROM hold WHERE status = 'open' GROUP BY from_account
        ) AS open ON from_account = id
        WHERE held <> coalesce(total, 0)
    """,
    "floors": """
        SELECT id, NULL::bigint, concat('the available amount is ', balance - held, ', min_balance is ', min_balance)
        FROM account
        WHERE balance - held < min_balance
    """,
    "ceilings": """
        SELECT id, NULL::bigint, concat('the balance is ', balance, ', max_balance is ', max_balance)
        FROM account
        WHERE balance > max_balance
    """,
    "closed": """
        SELECT id, NULL::bigint, concat('it is closed, its balance is ', balance, ', its held amount is ', held)
        FROM account
        WHERE status = 'closed' AND (balance <> 0 OR held <> 0)
    """,
    # A chain for each account and member: the value before a change is the value after the change before it. The last
    # link, without a change, is the value of the account. The first status is open; other first values are not known.
    "changes": """
        WITH link AS (
            SELECT account, change, member, before -> member AS before, after -> member AS after
            FROM account_change
            CROSS JOIN jsonb_object_keys(after) AS member
            UNION ALL
            SELECT id, NULL, member, before, NULL
            FROM account
            CROSS JOIN jsonb_each(jsonb_build_object(
                'min_balance', min_balance, 'max_balance', max_balance, 'status', status, 'metadata', metadata
            )) AS current (member, before)
            WHERE status <> 'open' OR id IN (SELECT account FROM account_change)
        ), chain AS (
            SELECT account, change, member, before, lag(after, 1, CASE member WHEN 'status' THEN '"open"'::jsonb END)
                OVER (PARTITION BY account, member ORDER BY change NULLS LAST) AS expected
            FROM link
        )
        SELECT account, NULL::bigint,
            concat(member, ' before change ' || change, ' is ', before, ', expected ', expected)
        FROM chain
        WHERE expected IS NOT NULL AND before IS DISTINCT FROM expected
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
        SELECT NULL, number, concat('the status of ', id, ' is ', status, ', its amount is ', amount)
        FROM transfer
        WHERE (number > %(since)s OR %(since)s = 0)
            AND ((status = 'posted') <> (coalesce(number, 0) > 0) OR amount < 1)
    """,
    "times": """
        SELECT NULL, number, concat('it was posted at ', created_at, ', the transfer before it at ', before)
        FROM (
            SELECT number, created_at, lag(created_at) OVER (ORDER BY number) AS before
            FROM transfer
            WHERE number >= %(since)s
        ) AS posted
        WHERE created_at < before
    """,
    "journal": """
        SELECT NULL, last_number, concat('last_at is ', last_at, ', the last transfer is ', number, ' at ', created_at)
        FROM journal
        LEFT JOIN (
            SELECT number, created_at FROM transfer WHERE number > 0 ORDER BY number DESC LIMIT 1
        ) AS last_transfer ON true
        WHERE last_number <> coalesce(number, 0) OR last_at < created_at OR last_number < %(since)s
        UNION ALL
        SELECT NULL, NULL, concat('the journal has ', count(*), ' rows') FROM journal HAVING count(*) <> 1
    """,
    "captures": """
        SELECT coalesce(transfer.from_account, hold.from_account), number, CASE
            WHEN hold.id IS NULL THEN concat('it captures ', captures, ', which is not a captured hold')
            WHEN transfer.id IS NULL THEN concat('no posted transfer captures the captured hold ', hold.id)
            ELSE concat('it does not match hold ', hold.id, ': amount ', hold.amount, ', captured_by ', captured_by)
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
            concat('the reversals of ', reversal.reverses, ' sum to ', reversed, ', its amount is ', original.amount,
                ', reversed_total is ', reversal.reversed_total)
        FROM (
            SELECT number, from_account, to_account, currency, reverses, reversed_total,
                sum(amount) OVER (PARTITION BY reverses ORDER BY number) AS reversed
            FROM transfer
            WHERE number > 0 AND reverses IS NOT NULL
        ) AS reversal
        LEFT JOIN transfer AS original ON original.id = reversal.reverses AND original.number > 0
        WHERE reversal.number > %(since)s AND (
            reversed > original.amount OR reversed <> reversal.reversed_total OR reversal.number <= original.number
            OR (reversal.from_account, reversal.to_account, reversal.currency)
                IS DISTINCT FROM (original.to_account, original.from_account, original.currency)
        )
    """,
    # A release before migration 0010 writes no references and no reversed_total. So the reference of a capture or of a
    # reversal without reversed_total may be missing.
    "references": """
        SELECT transfer.from_account, transfer.number, concat('the reference of ', transfer.id, ' is ',
            coalesce(transfer.reference, 'null'), ', expected ', coalesce(hold.reference, original.reference, 'null'))
        FROM transfer
        LEFT JOIN hold ON hold.id = transfer.captures
        LEFT JOIN transfer AS original ON original.id = transfer.reverses
        WHERE (transfer.number > %(since)s OR %(since)s = 0) AND NOT transfer.has_own_reference
            AND (transfer.reference IS NOT NULL OR transfer.reversed_total IS NOT NULL)
            AND transfer.reference IS DISTINCT FROM coalesce(hold.reference, original.reference)
        UNION ALL
        SELECT from_account, number, concat('the reference of ', id, ' is ', reference, ', which is not an id')
        FROM (
            SELECT from_account, number, id, reference
            FROM transfer
            WHERE number > %(since)s OR %(since)s = 0
            UNION ALL
            SELECT from_account, NULL, id, reference FROM hold
        ) AS record
        WHERE reference !~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$'
    """,
    "declines": """
        SELECT declined_account, number, concat(id, ' was declined, its amount is ', amount, ', available was ',
            coalesce(declined_available::text, 'null'))
        FROM transfer
        WHERE %(since)s = 0
            AND reason IN ('capture-exceeds-hold', 'reversal-exceeds-transfer', 'max-balance-exceeded')
            AND (amount > declined_available) IS NOT TRUE
    """,
}
