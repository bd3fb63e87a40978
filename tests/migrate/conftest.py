"""Fixtures of the tests of the migration runner."""

import pytest

from service.migrate import runner


@pytest.fixture(autouse=True)
def balanced_books() -> None:
    """Replaces the check of the ledger after each test: these tests do not write to its database."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the pauses of a runner in this process."""
    monkeypatch.setattr(runner, "LOCK_POLL_SECONDS", 0.02)
    monkeypatch.setattr(runner, "TABLE_LOCK_PAUSE_SECONDS", 0.2)
