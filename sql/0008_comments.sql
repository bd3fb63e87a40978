-- The documentation of the schema, in the database: psql shows it with \d+. No row and no rule changes.

COMMENT ON TABLE account IS
    'One account. balance is the sum of its incoming transfers minus the sum of its outgoing transfers; the audit checks this.';
COMMENT ON COLUMN account.id IS 'Chosen by the caller. Compared byte by byte, so the order does not depend on a locale.';
COMMENT ON COLUMN account.currency IS 'The only currency of this account. It never changes.';
COMMENT ON COLUMN account.min_balance IS 'The floor: balance - held is not allowed below it. NULL: no floor.';
COMMENT ON COLUMN account.balance IS 'In the currency''s smallest unit, within plus and minus 2^53-1.';
COMMENT ON COLUMN account.held IS
    'The sum of the open holds from this account. Includes expired holds until the next posting on or PATCH of the account.';
COMMENT ON COLUMN account.status IS
    'open; frozen: no new transfer or hold; closed: no transfer, hold, capture or reversal, and balance and held are 0.';
COMMENT ON COLUMN account.metadata IS 'Strings of the caller. The ledger does not use them.';
COMMENT ON COLUMN account.created_at IS 'When the account was opened.';
COMMENT ON COLUMN account.created_by IS 'The caller that opened the account.';

COMMENT ON TABLE account_change IS
    'One change of an account''s min_balance, status or metadata. Append-only.';
COMMENT ON COLUMN account_change.change IS 'Increases with each change. Gaps are possible.';
COMMENT ON COLUMN account_change.account IS 'The changed account.';
COMMENT ON COLUMN account_change.before IS 'The changed members with their values before the change.';
COMMENT ON COLUMN account_change.after IS 'The changed members with their values after the change.';
COMMENT ON COLUMN account_change.changed_at IS 'When the change was made.';
COMMENT ON COLUMN account_change.changed_by IS 'The caller that made the change.';
COMMENT ON COLUMN account_change.idempotency_key IS
    'Identifies the request, so that a retry inside the service does not make the change twice. NULL: made before migration 0006.';

COMMENT ON TABLE journal IS
    'One row. Every posting locks it last and holds the lock until COMMIT, so numbers are gapless and in commit order.';
COMMENT ON COLUMN journal.only_row IS 'Always true; as primary key it allows one row.';
COMMENT ON COLUMN journal.last_number IS 'The number of the newest posted transfer; 0 before the first.';
COMMENT ON COLUMN journal.last_at IS
    'The time of the newest posting, or later, if a read advanced it. No later posting gets an earlier time.';

COMMENT ON TABLE transfer IS
    'One row is one transfer and both of its entries, so half of a double entry cannot exist. Append-only. Declined transfers are kept.';
COMMENT ON COLUMN transfer.id IS 'Chosen by the caller. Its first result, posted or declined, is final.';
COMMENT ON COLUMN transfer.number IS 'The position in the journal: 1, 2, 3 without gaps, in commit order. NULL: declined.';
COMMENT ON COLUMN transfer.status IS 'posted or declined.';
COMMENT ON COLUMN transfer.reason IS 'Why it was declined: a slug of service/contract/problems.json. NULL: posted.';
COMMENT ON COLUMN transfer.from_account IS 'The account that pays.';
COMMENT ON COLUMN transfer.to_account IS 'The account that receives.';
COMMENT ON COLUMN transfer.amount IS 'In the currency''s smallest unit, 1 to 2^53-1.';
COMMENT ON COLUMN transfer.currency IS 'The currency of both accounts.';
COMMENT ON COLUMN transfer.from_balance IS 'The balance of from_account after this transfer. NULL: declined.';
COMMENT ON COLUMN transfer.to_balance IS 'The balance of to_account after this transfer. NULL: declined.';
COMMENT ON COLUMN transfer.declined_account IS 'The account whose rule declined it; from_account if the rule is not about one account. NULL: posted.';
COMMENT ON COLUMN transfer.declined_available IS
    'The amount that was available: on the account, of the hold, or of the transfer to reverse. NULL: posted, or the reason is not about an amount.';
COMMENT ON COLUMN transfer.captures IS 'The hold that this transfer captures. NULL: none.';
COMMENT ON COLUMN transfer.reverses IS 'The transfer that this one reverses. NULL: none.';
COMMENT ON COLUMN transfer.takes_rest IS 'Whether the request had no amount: the amount is all that was left to capture or to reverse.';
COMMENT ON COLUMN transfer.metadata IS 'Strings of the caller. The ledger does not use them.';
COMMENT ON COLUMN transfer.created_at IS 'The time of the posting. It never decreases with the number.';
COMMENT ON COLUMN transfer.created_by IS 'The caller that sent it first.';

COMMENT ON TABLE hold IS
    'One row is one hold: an amount of from_account that is reserved for to_account until it is captured, released or expired.';
COMMENT ON COLUMN hold.id IS 'Chosen by the caller. Its first result is final.';
COMMENT ON COLUMN hold.status IS
    'open, captured, released, expired or declined. An expired hold is open here until the next posting on or PATCH of from_account; reads show it as expired.';
COMMENT ON COLUMN hold.reason IS 'Why it was declined: a slug of service/contract/problems.json. NULL: not declined.';
COMMENT ON COLUMN hold.from_account IS 'The account whose money is reserved.';
COMMENT ON COLUMN hold.to_account IS 'The account that a capture pays.';
COMMENT ON COLUMN hold.amount IS 'In the currency''s smallest unit, 1 to 2^53-1.';
COMMENT ON COLUMN hold.currency IS 'The currency of both accounts.';
COMMENT ON COLUMN hold.expires_at IS 'From this time on the hold is expired. NULL: it does not expire.';
COMMENT ON COLUMN hold.captured_by IS 'The transfer that captured it. NULL: not captured.';
COMMENT ON COLUMN hold.declined_account IS 'The account whose rule declined it; from_account if the rule is not about one account. NULL: not declined.';
COMMENT ON COLUMN hold.declined_available IS 'The amount that was available on that account. NULL: not declined, or the reason is not about an amount.';
COMMENT ON COLUMN hold.metadata IS 'Strings of the caller. The ledger does not use them.';
COMMENT ON COLUMN hold.created_at IS 'The time of the posting that placed or declined it.';
COMMENT ON COLUMN hold.created_by IS 'The caller that sent it first.';
COMMENT ON COLUMN hold.resolved_at IS 'When it was captured, released or declined; expires_at if it expired. NULL: open.';
