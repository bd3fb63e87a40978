"""Ledger: double-entry accounts and transfers behind a small HTTP API, kept in PostgreSQL."""

VERSION = "0.1.0"
