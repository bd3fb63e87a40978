"""Builds that are broken on purpose: a test that does not fail on them checks nothing."""

import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed

from service.session import Connection, Statement


def build(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], original: str, replacement: str) -> None:
    """Replace a piece of the source of a function or method, which must contain it."""
    source = textwrap.dedent(inspect.getsource(function))
    assert original in source, f"{function.__name__} does not contain {original!r}"
    namespace: dict[str, Any] = {}
    exec(source.replace(original, replacement), function.__globals__, namespace)
    owner: Any = sys.modules[function.__module__]
    for name in function.__qualname__.split(".")[:-1]:
        owner = getattr(owner, name)
    monkeypatch.setattr(owner, function.__name__, namespace[function.__name__])


def replace_sql(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, original: str, replacement: str) -> None:
    """Replace a piece of a statement, which must contain it. The statement is a constant of the module."""
    statement = getattr(module, name)
    text = statement.decode() if isinstance(statement, bytes) else statement.as_string()
    assert original in text, f"{name} does not contain {original!r}"
    monkeypatch.setattr(module, name, Composed([SQL(text.replace(original, replacement))]))


def fetch_in_a_pipeline(self: Connection, *statements: Statement) -> list[list[Any]]:
    """Replaces Connection.fetch_together: after it, the server does not limit how long the transaction is idle.

    psycopg ends most pipelines with a Flush message. If all results have arrived before, it sends none, so this does.
    """
    with self.pipeline():
        cursors = [
            self.cursor(row_factory=statement.row_factory).execute(statement.text, statement.parameters)
            for statement in statements
        ]
    self.pgconn.send_flush_request()
    self.pgconn.flush()
    return [cursor.fetchall() if cursor.description else [] for cursor in cursors]


def execute_in_a_pipeline(
    self: Connection, statements: str | Composed, parameters: Mapping[str, Any]
) -> TupleRow | None:
    """Replaces Connection.execute_and_commit: sends each statement as a separate message, COMMIT as the last."""
    text = statements if isinstance(statements, str) else statements.as_string()
    parts = [part.strip() for part in text.split(";")]
    with self.pipeline():
        cursors = [self.execute(part.encode(), parameters if "%(" in part else None) for part in parts]
    return next((cursor.fetchone() for cursor in reversed(cursors) if cursor.description), None)
