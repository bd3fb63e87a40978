-- migrate: no-transaction
-- Lists the open holds of an account by id.
CREATE INDEX CONCURRENTLY IF NOT EXISTS hold_open_by_id ON hold (from_account, id)
    WHERE status = 'open';
