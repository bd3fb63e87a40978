"""Migrations: numbered SQL files, each applied once, in order, and never edited.

`files` reads sql/, `history` compares it with the database, `runner` applies what is pending. The service itself only
compares: it applies nothing.
"""
