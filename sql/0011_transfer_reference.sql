-- migrate: no-transaction
-- Finds the posted transfers with a reference, by number. Transfers without a reference are not in the index.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transfer_reference ON transfer (reference, number)
    WHERE reference IS NOT NULL AND number IS NOT NULL;
