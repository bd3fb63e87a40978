-- migrate: no-transaction
-- A hold is captured once. Transfers that capture nothing, and declined ones, cost nothing here.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS transfer_captures ON transfer (captures)
    WHERE captures IS NOT NULL AND status = 'posted';
