"""Builds that are broken on purpose: a check that does not find what is wrong with them proves nothing."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest


def build(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], right: str, wrong: str) -> None:
    """Put another text in place of a piece of the function's own, which must be there."""
    source = inspect.getsource(function)
    assert right in source, f"{function.__name__} no longer says {right!r}"
    made: dict[str, Any] = {}
    exec(source.replace(right, wrong), function.__globals__, made)
    monkeypatch.setattr(sys.modules[function.__module__], function.__name__, made[function.__name__])
