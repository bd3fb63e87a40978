-- migrate: no-transaction
-- Finds the last number at a moment; times never run backwards.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transfer_created_at ON transfer (created_at, number)
    WHERE number IS NOT NULL;
