-- A change of an account takes effect once per request, also if the service repeats it after a lost response to COMMIT.
ALTER TABLE account_change ADD COLUMN idempotency_key uuid;  -- NULL: a change that was made before this migration
