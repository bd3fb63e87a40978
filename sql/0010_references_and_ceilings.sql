-- References of the caller, ceilings of accounts, and the running sum of the reversals of a transfer.
--
-- The release that is running can continue to write: each new column may be null or has a default, and it takes effect only for
-- rows that the new release writes. A ceiling is the exception: the old release does not know it, so its posting above a ceiling
-- violates account_ceiling and returns 500.

ALTER TABLE account ADD COLUMN max_balance bigint;
ALTER TABLE account ADD CONSTRAINT account_ceiling CHECK (max_balance IS NULL OR balance <= max_balance) NOT VALID;
ALTER TABLE account
    ADD CONSTRAINT account_max_balance_range CHECK (max_balance BETWEEN -9007199254740991 AND 9007199254740991) NOT VALID;

ALTER TABLE transfer ADD COLUMN reference text COLLATE "C";
ALTER TABLE transfer ADD COLUMN has_own_reference boolean NOT NULL DEFAULT false;
ALTER TABLE transfer ADD COLUMN reversed_total bigint;
ALTER TABLE transfer ADD CONSTRAINT transfer_own_reference CHECK (
    CASE num_nonnulls(captures, reverses)
        WHEN 0 THEN has_own_reference = (reference IS NOT NULL)
        ELSE reference IS NOT NULL OR NOT has_own_reference
    END
) NOT VALID;
ALTER TABLE transfer ADD CONSTRAINT transfer_reversed_total CHECK (
    reversed_total IS NULL
    OR (status = 'posted' AND reverses IS NOT NULL AND reversed_total BETWEEN amount AND 9007199254740991)
) NOT VALID;

ALTER TABLE hold ADD COLUMN reference text COLLATE "C";

GRANT UPDATE (max_balance) ON account TO ledger_service;

COMMENT ON TABLE account_change IS
    'One change of an account''s min_balance, max_balance, status or metadata. Append-only.';
COMMENT ON COLUMN account.max_balance IS
    'The ceiling: balance is not allowed above it. Holds for the account do not count. NULL: no ceiling.';
COMMENT ON COLUMN transfer.reference IS
    'What the transfer belongs to in the caller''s system. Not unique. By default that of the hold or transfer that it follows. NULL: none.';
COMMENT ON COLUMN transfer.has_own_reference IS
    'Whether the request had a reference. False for a capture or reversal that took the reference of its hold or transfer.';
COMMENT ON COLUMN transfer.reversed_total IS
    'The sum of the posted reversals of the transfer in reverses, up to and including this one. NULL: not a posted reversal, or written by a release before migration 0010.';
COMMENT ON COLUMN transfer.declined_available IS
    'The amount that was available: on the account, of the hold, or of the transfer to reverse; or that the account could still receive. NULL: posted, or the reason is not about an amount.';
COMMENT ON COLUMN hold.reference IS 'What the hold belongs to in the caller''s system. Not unique. NULL: none.';
