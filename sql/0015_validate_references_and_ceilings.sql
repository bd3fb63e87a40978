-- Proves for the earlier rows what 0010 requires of every new one. It reads them all and lets others write meanwhile.
ALTER TABLE account VALIDATE CONSTRAINT account_ceiling;
ALTER TABLE account VALIDATE CONSTRAINT account_max_balance_range;
ALTER TABLE transfer VALIDATE CONSTRAINT transfer_own_reference;
ALTER TABLE transfer VALIDATE CONSTRAINT transfer_reversed_total;
