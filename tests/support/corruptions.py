"""A ledger written by SQL, and manual changes of it, each with the errors that the audit must find."""

from typing import LiteralString

Findings = set[tuple[str, str | None, int | None]]  # check, account, number

# h1 is open, h2 is captured in part by number 5, h3 is released. Numbers 6 and 7 reverse 25 of the 30 of t2. A release
# before migration 0010 has written number 6: it has no reference and no reversed_total. Of each reason that is about an
# amount that follows from other rows, one transfer was declined. The account `changed` was changed three times.
LEDGER: LiteralString = """
    INSERT INTO hold (
        id, status, from_account, to_account, amount, currency, metadata, created_at, created_by, resolved_at
    )
    VALUES ('h1', 'open', 'a', 'b', 20, 'EUR', '{}', now(), 'x', NULL),
        ('h3', 'released', 'a', 'b', 9, 'EUR', '{}', now(), 'x', now());
    WITH captured AS (
        INSERT INTO hold (
            id, status, from_account, to_account, amount, currency, captured_by, reference, metadata, created_at,
            created_by, resolved_at
        )
        VALUES ('h2', 'captured', 'a', 'b', 50, 'EUR', 't5', 'trip', '{}', now(), 'x', now())
    )
    INSERT INTO transfer (
        id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, captures, reverses,
        reference, reversed_total, metadata, created_at, created_by
    )
    VALUES ('t5', 5, 'posted', 'a', 'b', 40, 'EUR', 40, 60, 'h2', NULL, 'trip', NULL, '{}', clock_timestamp(), 'x'),
        ('t6', 6, 'posted', 'b', 'a', 10, 'EUR', 50, 50, NULL, 't2', NULL, NULL, '{}', clock_timestamp(), 'x'),
        ('t7', 7, 'posted', 'b', 'a', 15, 'EUR', 35, 65, NULL, 't2', 'order', 25, '{}', clock_timestamp(), 'x');
    INSERT INTO transfer (
        id, status, reason, from_account, to_account, amount, currency, declined_account, declined_available,
        captures, reverses, metadata, created_at, created_by
    )
    VALUES ('d1', 'declined', 'capture-exceeds-hold', 'a', 'b', 51, 'EUR', 'a', 50, 'h2', NULL, '{}', now(), 'x'),
        ('d2', 'declined', 'reversal-exceeds-transfer', 'b', 'a', 6, 'EUR', 'b', 5, NULL, 't2', '{}', now(), 'x'),
        ('d3', 'declined', 'max-balance-exceeded', 'a', 'b', 9, 'EUR', 'b', 8, NULL, NULL, '{}', now(), 'x');
    UPDATE transfer SET reference = 'order', has_own_reference = true WHERE id = 't2';
    INSERT INTO account (id, currency, min_balance, max_balance, status, metadata, created_by)
    VALUES ('changed', 'EUR', -3, 100, 'frozen', '{"tier": "gold"}', 'x');
    INSERT INTO account_change (account, before, after, changed_by)
    VALUES ('changed', '{"min_balance": 0}', '{"min_balance": -9}', 'x'),
        ('changed', '{"min_balance": -9, "max_balance": null}', '{"min_balance": -3, "max_balance": 100}', 'x'),
        ('changed', '{"status": "open", "metadata": {}}', '{"status": "frozen", "metadata": {"tier": "gold"}}', 'x');
    UPDATE account SET balance = 65, held = 20 WHERE id = 'a';
    UPDATE account SET balance = 35 WHERE id = 'b';
    UPDATE journal SET last_number = 7, last_at = clock_timestamp()
"""

CLOSE: LiteralString = """
    INSERT INTO account_change (account, before, after, changed_by)
    VALUES ('changed', '{"status": "frozen"}', '{"status": "closed"}', 'x');
    UPDATE account SET status = 'closed' WHERE id = 'changed'
"""

CORRUPTIONS: dict[str, tuple[LiteralString, Findings]] = {
    "a balance": (
        "UPDATE account SET balance = balance + 1 WHERE id = 'b'",
        {("balances", "b", None), ("currencies", None, None)},
    ),
    "two balances with the same sum": (
        "UPDATE account SET balance = balance + CASE id WHEN 'a' THEN 1 ELSE -1 END WHERE id IN ('a', 'b')",
        {("balances", "a", None), ("balances", "b", None)},
    ),
    "a balance after an entry": (
        "UPDATE transfer SET to_balance = 31 WHERE id = 't2'",
        {("balances", "b", 2), ("balances", "b", 3)},
    ),
    "the first balance after an entry": (
        "UPDATE transfer SET from_balance = -99 WHERE id = 't1'",
        {("balances", "world", 1), ("balances", "world", None)},
    ),
    "an amount": ("UPDATE transfer SET amount = 31 WHERE id = 't2'", {("balances", "a", 2), ("balances", "b", 2)}),
    "the accounts swapped": (
        "UPDATE transfer SET from_account = to_account, to_account = from_account WHERE id = 't3'",
        {("balances", account, number) for account in "ab" for number in (3, 5)},
    ),
    "another account of a transfer": (
        "UPDATE transfer SET to_account = 'world' WHERE id = 't3'",
        {("balances", "world", 3), ("balances", "world", None), ("balances", "a", 5)},
    ),
    "a deleted transfer": (
        "DELETE FROM transfer WHERE id = 't3'",
        {("balances", "a", 5), ("balances", "b", 5), ("numbers", None, 4)},
    ),
    "the last transfer deleted": (
        "DELETE FROM transfer WHERE id = 't7'",
        {("balances", "a", None), ("balances", "b", None), ("journal", None, 7)},
    ),
    "an account deleted": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_from_account_fkey; DELETE FROM account WHERE id = 'world'",
        {("currencies", "world", 1), ("currencies", None, None)},
    ),
    "the currency of a transfer": (
        "UPDATE transfer SET currency = 'USD' WHERE id = 't3'",
        {("currencies", "a", 3), ("currencies", "b", 3)},
    ),
    "the currency of an account": (
        "UPDATE account SET currency = 'EUR' WHERE id = 'purse'",
        {("currencies", "purse", 4), ("currencies", None, None)},
    ),
    "the currency of an open hold": (
        "UPDATE hold SET currency = 'USD' WHERE id = 'h1'",
        {("currencies", "a", None), ("currencies", "b", None)},
    ),
    "an open hold for an unknown account": (
        "ALTER TABLE hold DROP CONSTRAINT hold_to_account_fkey; UPDATE hold SET to_account = 'unknown' WHERE id = 'h1'",
        {("currencies", "unknown", None)},
    ),
    "an open hold of an unknown account": (
        "ALTER TABLE hold DROP CONSTRAINT hold_from_account_fkey;"
        " UPDATE hold SET from_account = 'unknown' WHERE id = 'h1'; UPDATE account SET held = 0 WHERE id = 'a'",
        {("currencies", "unknown", None)},
    ),
    "a negative amount": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_amount_range; UPDATE transfer SET from_account = to_account,"
        " to_account = from_account, from_balance = to_balance, to_balance = from_balance, amount = -amount"
        " WHERE id = 't3'",
        {("numbers", None, 3)},
    ),
    "the held amount": ("UPDATE account SET held = 19 WHERE id = 'a'", {("held", "a", None)}),
    "an open hold deleted": ("DELETE FROM hold WHERE id = 'h1'", {("held", "a", None)}),
    "an open hold released without its amount": (
        "UPDATE hold SET status = 'released', resolved_at = now() WHERE id = 'h1'",
        {("held", "a", None)},
    ),
    "an available amount below min_balance": (
        "ALTER TABLE account DROP CONSTRAINT account_floor; UPDATE account SET min_balance = 46 WHERE id = 'a'",
        {("floors", "a", None)},
    ),
    "a balance above max_balance": (
        "ALTER TABLE account DROP CONSTRAINT account_ceiling; UPDATE account SET max_balance = 64 WHERE id = 'a'",
        {("ceilings", "a", None)},
    ),
    "a closed account with a balance": (
        CLOSE + "; UPDATE account SET balance = 1 WHERE id = 'changed'",
        {("closed", "changed", None), ("balances", "changed", None), ("currencies", None, None)},
    ),
    "a closed account with an open hold": (
        CLOSE + "; UPDATE account SET held = 1 WHERE id = 'changed';"
        " INSERT INTO hold (id, status, from_account, to_account, amount, currency, metadata, created_at, created_by)"
        " VALUES ('h4', 'open', 'changed', 'b', 1, 'EUR', '{}', now(), 'x')",
        {("closed", "changed", None)},
    ),
    "min_balance without a record": (
        "UPDATE account SET min_balance = -2 WHERE id = 'changed'",
        {("changes", "changed", None)},
    ),
    "max_balance without a record": (
        "UPDATE account SET max_balance = NULL WHERE id = 'changed'",
        {("changes", "changed", None)},
    ),
    "metadata without a record": (
        "UPDATE account SET metadata = '{}' WHERE id = 'changed'",
        {("changes", "changed", None)},
    ),
    "a status without a record": (
        "UPDATE account SET status = 'open' WHERE id = 'changed'",
        {("changes", "changed", None)},
    ),
    "the first status without a record": (
        "UPDATE account SET status = 'frozen' WHERE id = 'b'",
        {("changes", "b", None)},
    ),
    "a change deleted": (
        "DELETE FROM account_change WHERE after ->> 'min_balance' = '-3'",
        {("changes", "changed", None)},
    ),
    "the value before a change": (
        """UPDATE account_change SET before = '{"min_balance": -8}' WHERE after ->> 'min_balance' = '-3'""",
        {("changes", "changed", None)},
    ),
    "a gap in the numbers": (
        "UPDATE transfer SET number = 9 WHERE id = 't7'; UPDATE journal SET last_number = 9",
        {("numbers", None, 9)},
    ),
    "a number that is used twice": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_number_key;"
        " UPDATE transfer SET number = 5 WHERE id = 't4'; UPDATE transfer SET created_at = '2020-01-01Z'",
        {("numbers", None, 5)},
    ),
    "a posted transfer without a number": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_posted_or_declined;"
        " UPDATE transfer SET status = 'posted' WHERE id = 'no'",
        {("numbers", None, None)},
    ),
    "a declined transfer with a number": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_posted_or_declined;"
        " UPDATE transfer SET status = 'declined' WHERE id = 't3'",
        {("numbers", None, 3)},
    ),
    "a time before the previous one": (
        "UPDATE transfer SET created_at = created_at - interval '1 day' WHERE id = 't6'",
        {("times", None, 6)},
    ),
    "the last number of the journal": ("UPDATE journal SET last_number = 8", {("journal", None, 8)}),
    "the last time of the journal": ("UPDATE journal SET last_at = last_at - interval '1 day'", {("journal", None, 7)}),
    "the journal deleted": ("DELETE FROM journal", {("journal", None, None)}),
    "a capture larger than its hold": ("UPDATE hold SET amount = 39 WHERE id = 'h2'", {("captures", "a", 5)}),
    "a capture from another account": (
        "UPDATE hold SET from_account = 'b', to_account = 'a' WHERE id = 'h2'",
        {("captures", "a", 5)},
    ),
    "a capture of a released hold": (
        "UPDATE hold SET status = 'released', captured_by = NULL WHERE id = 'h2'",
        {("captures", "a", 5)},
    ),
    "a capture of an open hold": (
        "UPDATE hold SET status = 'open', captured_by = NULL, resolved_at = NULL WHERE id = 'h2';"
        " UPDATE account SET held = 70, min_balance = NULL WHERE id = 'a'",
        {("captures", "a", 5)},
    ),
    "a captured hold deleted": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_captures_fkey; DELETE FROM hold WHERE id = 'h2'",
        {("captures", "a", 5), ("references", "a", 5)},
    ),
    "a hold captured by another transfer": (
        "UPDATE hold SET captured_by = 't1' WHERE id = 'h2'",
        {("captures", "a", 5)},
    ),
    "a hold captured without a capture": (
        "UPDATE transfer SET captures = NULL, has_own_reference = true WHERE id = 't5'",
        {("captures", "a", None)},
    ),
    "a hold captured twice": (
        "DROP INDEX transfer_captures; UPDATE transfer SET captures = 'h2' WHERE id = 't2'",
        {("captures", "a", 2)},
    ),
    "reversals of more than the amount": (
        "UPDATE transfer SET amount = 24 WHERE id = 't2'",
        {("balances", "a", 2), ("balances", "b", 2), ("reversals", "b", 7)},
    ),
    "a reversal of a declined transfer": (
        "UPDATE transfer SET reverses = 'no' WHERE id = 't6'",
        {("reversals", "b", 6), ("reversals", "b", 7)},
    ),
    "a reversal between other accounts": (
        "UPDATE transfer SET reverses = 't1' WHERE id = 't6'",
        {("reversals", "b", 6), ("reversals", "b", 7)},
    ),
    "a reversal of a later transfer": ("UPDATE transfer SET reverses = 't7' WHERE id = 't2'", {("reversals", "a", 2)}),
    "the sum of the reversals": ("UPDATE transfer SET reversed_total = 24 WHERE id = 't7'", {("reversals", "b", 7)}),
    "the sum of the reversals of the row without one": (
        "UPDATE transfer SET reversed_total = 11 WHERE id = 't6'",
        {("reversals", "b", 6), ("references", "b", 6)},
    ),
    "the reference of a capture": ("UPDATE transfer SET reference = 'other' WHERE id = 't5'", {("references", "a", 5)}),
    "the reference of a captured hold": ("UPDATE hold SET reference = NULL WHERE id = 'h2'", {("references", "a", 5)}),
    "the reference of a reversal": ("UPDATE transfer SET reference = 'trip' WHERE id = 't7'", {("references", "b", 7)}),
    "no reference of a reversal": ("UPDATE transfer SET reference = NULL WHERE id = 't7'", {("references", "b", 7)}),
    "the reference of a reversed transfer": (
        "UPDATE transfer SET reference = 'other' WHERE id = 't2'",
        {("references", "b", 7)},
    ),
    "a reference that the transfer does not have": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_own_reference;"
        " UPDATE transfer SET reference = 'other' WHERE id = 't1'",
        {("references", "world", 1)},
    ),
    "a reference that is not an id": (
        "UPDATE transfer SET reference = 'A 19', has_own_reference = true WHERE id = 't3'",
        {("references", "b", 3)},
    ),
    "a reference of a hold that is too long": (
        "UPDATE hold SET reference = repeat('x', 65) WHERE id = 'h1'",
        {("references", "a", None)},
    ),
    "a decline of a capture within its hold": (
        "UPDATE transfer SET amount = 50 WHERE id = 'd1'",
        {("declines", "a", None)},
    ),
    "a decline of a reversal of what is left": (
        "UPDATE transfer SET amount = 5 WHERE id = 'd2'",
        {("declines", "b", None)},
    ),
    "a decline below the ceiling": ("UPDATE transfer SET amount = 8 WHERE id = 'd3'", {("declines", "b", None)}),
    "a decline without the available amount": (
        "UPDATE transfer SET declined_available = NULL WHERE id = 'd3'",
        {("declines", "b", None)},
    ),
}
