"""Migrations: numbered SQL files, applied once each, in order, and never edited.

`history` says what a database has; `runner` brings it forward; the service itself only looks.
"""
