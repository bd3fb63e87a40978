"""A short soak of the running service, and that it finds what it looks for. `make soak` takes longer."""

import random

import pytest

from bench import soak
from tests import live


def test_finds_no_harm_and_every_harm(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of everything at once breaks no promise; what is told otherwise afterwards is found."""
    monkeypatch.setattr(soak, "TOKEN", live.TOKEN)
    with live.serving(environment) as service:
        soak.soak(service.url, 1)
        assert soak.violations == []
        soak.acknowledged["lost"] = {}
        soak.acknowledged[random.choice(list(soak.acknowledged)[:-1])] = {}
        soak.declined.add(random.choice(list(soak.acknowledged)[:-1]))
        soak.placed[random.choice(list(soak.placed))] = {}
        soak.look(soak.Caller(service.url, 0))
    assert len(soak.violations) == 4
