"""The ledger itself. Speaks SQL, on a connection that it is given; does not know HTTP."""
