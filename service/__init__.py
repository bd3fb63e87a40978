"""Ledger: double-entry accounts and transfers behind a small HTTP API, stored in PostgreSQL."""

VERSION = "0.1.0"
