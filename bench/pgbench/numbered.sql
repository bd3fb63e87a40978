-- The same with the number from the journal row, as the ledger's posting takes it: gapless and in commit order. The row
-- is locked until the commit, so commits are serial. One transfer per commit: this is the limit without group posting.
\set source random(0, :accounts - 1) * (1 - :hot)
\set other (:source + random(1, :accounts - 1)) % :accounts
\set low least(:source, :other)
\set high greatest(:source, :other)
WITH journal_taken AS (
    UPDATE journal
    SET last_number = last_number + 1, last_at = greatest(last_at, clock_timestamp())
    WHERE only_row
    RETURNING last_number, last_at
), debited AS (
    UPDATE account SET balance = balance - 1 FROM journal_taken WHERE id = 'a' || :low RETURNING balance
), credited AS (
    UPDATE account SET balance = balance + 1 FROM journal_taken WHERE id = 'a' || :high RETURNING balance
)
INSERT INTO transfer (
    id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, metadata, created_at,
    created_by
)
SELECT gen_random_uuid(), last_number, 'posted', 'a' || :low, 'a' || :high, 1, 'EUR', debited.balance,
    credited.balance, '{"order": "A-19"}', last_at, 'bench'
FROM journal_taken, debited, credited;
