-- migrate: no-transaction
-- Finds the change that a request has made, and refuses a second one.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS account_change_idempotency_key ON account_change (idempotency_key);
