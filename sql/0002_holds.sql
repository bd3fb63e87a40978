-- Holds: money set aside, and transfers that draw on a hold or give a transfer back.

-- One row is one hold: `amount` of from_account is set aside for to_account, until a transfer captures all or a part of it, it
-- is released, or its time is over. account.held is the sum of an account's holds whose status is open. A hold that is due
-- stays open in its row until the next posting that touches the account, and whoever reads leaves it out. A declined hold is
-- kept, so that its id gives the same answer for ever.
CREATE TABLE hold (
    id text COLLATE "C" NOT NULL,
    status text NOT NULL,
    reason text,  -- NULL: it was not declined. Otherwise a slug of service/contract/problems.json
    from_account text COLLATE "C" NOT NULL,
    to_account text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    currency text NOT NULL,
    expires_at timestamptz,  -- NULL: never
    captured_by text COLLATE "C",  -- the transfer that drew on it. NULL: none did
    declined_account text COLLATE "C",  -- the account whose rule refused it. NULL: it was not declined
    declined_available bigint,  -- what that account had available then. NULL: it was not a matter of funds
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    resolved_at timestamptz,  -- when it was captured, released, declined, or due. NULL: it is open
    CONSTRAINT hold_pkey PRIMARY KEY (id),
    CONSTRAINT hold_from_account_fkey FOREIGN KEY (from_account) REFERENCES account (id),
    CONSTRAINT hold_to_account_fkey FOREIGN KEY (to_account) REFERENCES account (id),
    CONSTRAINT hold_captured_by_fkey FOREIGN KEY (captured_by) REFERENCES transfer (id),
    CONSTRAINT hold_two_accounts CHECK (from_account <> to_account),
    CONSTRAINT hold_amount_range CHECK (amount BETWEEN 1 AND 9007199254740991),
    CONSTRAINT hold_status_known CHECK (status IN ('open', 'captured', 'released', 'expired', 'declined')),
    CONSTRAINT hold_declined CHECK (
        CASE status
            WHEN 'declined' THEN num_nonnulls(reason, declined_account) = 2
            ELSE num_nonnulls(reason, declined_account, declined_available) = 0
        END
    ),
    CONSTRAINT hold_captured CHECK ((status = 'captured') = (captured_by IS NOT NULL)),
    CONSTRAINT hold_resolved CHECK ((status = 'open') = (resolved_at IS NULL)),
    CONSTRAINT hold_expired CHECK (status <> 'expired' OR resolved_at = expires_at)
);

-- Finds the open holds of an account, those that are due first.
CREATE INDEX hold_open ON hold (from_account, expires_at) WHERE status = 'open';

-- What a transfer draws on or gives back is there, and is one thing. Rows of before have neither; 0005 proves it.
ALTER TABLE transfer ADD CONSTRAINT transfer_captures_fkey FOREIGN KEY (captures) REFERENCES hold (id) NOT VALID;
ALTER TABLE transfer ADD CONSTRAINT transfer_reverses_fkey FOREIGN KEY (reverses) REFERENCES transfer (id) NOT VALID;
ALTER TABLE transfer ADD CONSTRAINT transfer_one_source CHECK (num_nonnulls(captures, reverses) <= 1) NOT VALID;

-- A declined transfer that drew on too much keeps in declined_available what there was to draw on.
ALTER TABLE transfer ADD COLUMN takes_rest boolean NOT NULL DEFAULT false;  -- no amount was asked: all that was left

GRANT SELECT, INSERT ON hold TO ledger_service;
GRANT UPDATE (status, captured_by, resolved_at) ON hold TO ledger_service;
