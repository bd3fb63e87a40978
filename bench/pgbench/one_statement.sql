-- One transfer in one statement: both accounts and the transfer row. Its number comes from a sequence, so numbers have
-- gaps and are not in commit order. This is the limit of PostgreSQL for rows of this shape.
\set source random(0, :accounts - 1) * (1 - :hot)
\set other (:source + random(1, :accounts - 1)) % :accounts
\set low least(:source, :other)
\set high greatest(:source, :other)
WITH debited AS (
    UPDATE account SET balance = balance - 1 WHERE id = 'a' || :low RETURNING balance
), credited AS (
    UPDATE account SET balance = balance + 1 WHERE id = 'a' || :high RETURNING balance
)
INSERT INTO transfer (
    id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, metadata, created_at,
    created_by
)
SELECT gen_random_uuid(), nextval('bench_number'), 'posted', 'a' || :low, 'a' || :high, 1, 'EUR', debited.balance,
    credited.balance, '{"order": "A-19"}', clock_timestamp(), 'bench'
FROM debited, credited;
