-- Proves for the rows of before what 0002 demands of every new one. It reads them all and lets others write meanwhile.
ALTER TABLE transfer VALIDATE CONSTRAINT transfer_captures_fkey;
ALTER TABLE transfer VALIDATE CONSTRAINT transfer_reverses_fkey;
ALTER TABLE transfer VALIDATE CONSTRAINT transfer_one_source;
