-- The books: accounts, one journal row, transfers, and the record of changed accounts.
-- Amounts are whole numbers of the currency's smallest unit. 9007199254740991 is 2^53-1, the largest whole number that every
-- JSON reader holds exactly. Ids are compared byte by byte (COLLATE "C"), so that order never depends on a locale.

-- The service works as this role, whatever it logged in as. A role belongs to the whole server, so it may be there already.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ledger_service') THEN
        CREATE ROLE ledger_service NOLOGIN;
        GRANT ledger_service TO CURRENT_USER;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;  -- another database of this server made it just now
END
$$;

-- One row is a place where money stands. `balance` is all that came in less all that went out; the transfers prove it.
-- The floor counts what is available, balance less held, and holds whatever the service believes.
CREATE TABLE account (
    id text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    min_balance bigint,  -- NULL: no floor
    balance bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    status text NOT NULL DEFAULT 'open',
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by text NOT NULL,
    CONSTRAINT account_pkey PRIMARY KEY (id),
    CONSTRAINT account_floor CHECK (min_balance IS NULL OR balance - held >= min_balance),
    CONSTRAINT account_balance_range CHECK (balance BETWEEN -9007199254740991 AND 9007199254740991),
    CONSTRAINT account_min_balance_range CHECK (min_balance BETWEEN -9007199254740991 AND 9007199254740991),
    CONSTRAINT account_held_range CHECK (held BETWEEN 0 AND 9007199254740991),
    CONSTRAINT account_status_known CHECK (status IN ('open', 'frozen', 'closed'))
) WITH (fillfactor = 70);  -- room on the page, so that a changed balance stays a HOT update

-- The one row that every posting locks last, and only until its commit. It hands out the numbers 1, 2, 3 … without gaps, in
-- commit order, and times that never run backwards.
CREATE TABLE journal (
    only_row boolean NOT NULL DEFAULT true,
    last_number bigint NOT NULL DEFAULT 0,
    last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT journal_pkey PRIMARY KEY (only_row),
    CONSTRAINT journal_only_row CHECK (only_row),
    CONSTRAINT journal_last_number_range CHECK (last_number >= 0)
) WITH (fillfactor = 10);  -- one small row, rewritten at every posting: the rest of its page is room for HOT updates

INSERT INTO journal DEFAULT VALUES;

-- One row is one transfer and both of its entries: a half-written double entry cannot exist. Append-only. A declined transfer
-- is kept too, so that its id gives the same answer for ever.
CREATE TABLE transfer (
    id text COLLATE "C" NOT NULL,
    number bigint,  -- NULL: declined
    status text NOT NULL,
    reason text,  -- NULL: posted. Otherwise a slug of service/contract/problems.json
    from_account text COLLATE "C" NOT NULL,
    to_account text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    currency text NOT NULL,
    from_balance bigint,  -- balance of from_account after this transfer. NULL: declined
    to_balance bigint,  -- balance of to_account after this transfer. NULL: declined
    declined_account text COLLATE "C",  -- the account whose rule refused it. NULL: posted
    declined_available bigint,  -- what that account had available then. NULL: it was not a matter of funds
    captures text COLLATE "C",  -- the hold that this transfer draws on. NULL: none
    reverses text COLLATE "C",  -- the transfer that this one gives back. NULL: none
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    CONSTRAINT transfer_pkey PRIMARY KEY (id),
    CONSTRAINT transfer_number_key UNIQUE (number),
    CONSTRAINT transfer_from_account_fkey FOREIGN KEY (from_account) REFERENCES account (id),
    CONSTRAINT transfer_to_account_fkey FOREIGN KEY (to_account) REFERENCES account (id),
    CONSTRAINT transfer_two_accounts CHECK (from_account <> to_account),
    CONSTRAINT transfer_number_range CHECK (number >= 1),
    CONSTRAINT transfer_amount_range CHECK (amount BETWEEN 1 AND 9007199254740991),
    CONSTRAINT transfer_status_known CHECK (status IN ('posted', 'declined')),
    CONSTRAINT transfer_posted_or_declined CHECK (
        CASE status
            WHEN 'posted' THEN num_nonnulls(number, from_balance, to_balance) = 3
                AND num_nonnulls(reason, declined_account, declined_available) = 0
            ELSE num_nonnulls(number, from_balance, to_balance) = 0
                AND num_nonnulls(reason, declined_account) = 2
        END
    )
);

CREATE INDEX transfer_from_account ON transfer (from_account, number);
CREATE INDEX transfer_to_account ON transfer (to_account, number);
CREATE INDEX transfer_reverses ON transfer (reverses) WHERE reverses IS NOT NULL;

-- One row is one change of an account's limit, status or metadata: the changed members as they were and as they became.
-- Append-only.
CREATE TABLE account_change (
    change bigint GENERATED ALWAYS AS IDENTITY,
    account text COLLATE "C" NOT NULL,
    before jsonb NOT NULL,
    after jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by text NOT NULL,
    CONSTRAINT account_change_pkey PRIMARY KEY (change),
    CONSTRAINT account_change_account_fkey FOREIGN KEY (account) REFERENCES account (id)
);

CREATE INDEX account_change_account ON account_change (account, change);

-- What the service may do, and nothing else: no DDL, nothing deleted, no transfer ever changed.
GRANT SELECT, INSERT ON account, transfer, account_change TO ledger_service;
GRANT UPDATE (min_balance, balance, held, status, metadata) ON account TO ledger_service;
GRANT SELECT, UPDATE (last_number, last_at) ON journal TO ledger_service;
GRANT SELECT ON schema_migration TO ledger_service;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
