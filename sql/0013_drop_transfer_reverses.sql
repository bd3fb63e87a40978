-- migrate: no-transaction
-- transfer_reversals finds the same rows, also for the release that is running.
DROP INDEX CONCURRENTLY IF EXISTS transfer_reverses;
