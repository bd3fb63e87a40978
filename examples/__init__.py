"""Examples for callers of the ledger. Each file can be copied and used alone."""
