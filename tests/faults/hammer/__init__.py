"""Fault injection: clients and faults against real processes, then a comparison of every response with the ledger."""
