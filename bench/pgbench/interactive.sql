-- One transfer as an interactive transaction: lock, two updates, one insert, commit. No rules and no journal row.
\set source random(0, :accounts - 1) * (1 - :hot)
\set other (:source + random(1, :accounts - 1)) % :accounts
\set low least(:source, :other)
\set high greatest(:source, :other)
BEGIN;
SELECT id, balance FROM account WHERE id IN ('a' || :low, 'a' || :high) ORDER BY id FOR NO KEY UPDATE;
UPDATE account SET balance = balance - 1 WHERE id = 'a' || :low RETURNING balance AS from_balance \gset
UPDATE account SET balance = balance + 1 WHERE id = 'a' || :high RETURNING balance AS to_balance \gset
INSERT INTO transfer (
    id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, metadata, created_at,
    created_by
) VALUES (
    gen_random_uuid(), nextval('bench_number'), 'posted', 'a' || :low, 'a' || :high, 1, 'EUR', :from_balance,
    :to_balance, '{"order": "A-19"}', clock_timestamp(), 'bench'
);
COMMIT;
