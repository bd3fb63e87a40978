-- migrate: no-transaction
-- Finds the last reversal of a transfer, whose reversed_total makes reading the earlier ones unnecessary.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transfer_reversals ON transfer (reverses, number)
    WHERE reverses IS NOT NULL;
