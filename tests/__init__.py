"""The tests. They run on a real PostgreSQL under the service's own role, and the ledger is audited after each test."""
