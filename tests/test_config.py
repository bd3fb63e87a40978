"""The settings: all faults at once, and secrets never shown."""

import json
from typing import Any

import pytest

from service import config

HASH = "a" * 64
GOOD = {
    "DATABASE_URL": "postgresql://ledger_service:hunter2@db.internal:5432/ledger",
    "CALLERS": json.dumps([{"name": "checkout", "scopes": ["read", "write"], "token_sha256": [HASH]}]),
}


def faults(**changes: str) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        config.load(GOOD | changes)
    return caught.value.faults


def callers(**changes: Any) -> str:
    return json.dumps([{"name": "checkout", "scopes": ["read"], "token_sha256": [HASH]} | changes])


def test_defaults_suit_production() -> None:
    """Only the database and the callers must be said."""
    settings = config.load(GOOD)
    assert (settings.environment, settings.host, settings.port) == ("production", "0.0.0.0", 8080)
    assert settings.callers[0].scopes == {"read", "write"}


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    """Templates that leave a value empty mean the default."""
    assert config.load(GOOD | {"PORT": "", "LOG_LEVEL": ""}).port == 8080


def test_all_faults_are_found_at_once() -> None:
    """Nobody mends a configuration one restart at a time."""
    found = faults(PORT="http", LOG_LEVEL="loud", CALLERS="")
    assert [fault.split()[0] for fault in found] == ["CALLERS", "PORT", "LOG_LEVEL"]


@pytest.mark.parametrize("port", ["0", "65536", "-1", "8080.0", "٣", " 80", "8_0", "1e3"])
def test_refuses_what_is_no_port(port: str) -> None:
    """Numbers are written in plain digits, within their range."""
    assert faults(PORT=port) == ["PORT must be a whole number from 1 to 65535"]


def test_names_the_trap_of_service_links() -> None:
    """Kubernetes sets such variables for every Service of the namespace."""
    assert "enableServiceLinks" in faults(PORT="tcp://10.0.0.1:8080")[0]


@pytest.mark.parametrize("url", ["nonsense", "postgresql://h/db?nope=hunter2", "mysql://u:hunter2@h/db"])
def test_refuses_what_is_no_database_url(url: str) -> None:
    """The message names the variable and repeats nothing of its value."""
    (fault,) = faults(DATABASE_URL=url)
    assert fault.startswith("DATABASE_URL is not a connection URL")
    assert "hunter2" not in fault


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{", "must be a JSON list"),
        ("[]", "must be a JSON list"),
        ("{}", "must be a JSON list"),
        ("[1]", "CALLERS[0] must have the members"),
        ('[{"name": "a"}]', "CALLERS[0] must have the members"),
        (callers(extra=1), "CALLERS[0] must have the members"),
        (callers(name="Check Out"), "CALLERS[0].name"),
        (callers(scopes=[]), "CALLERS[0].scopes"),
        (callers(scopes=["root"]), "CALLERS[0].scopes"),
        (callers(scopes=[[]]), "CALLERS[0].scopes"),
        (callers(token_sha256=[]), "CALLERS[0].token_sha256"),
        (callers(token_sha256=["A" * 64]), "CALLERS[0].token_sha256"),
        (callers(token_sha256=["plain-token"]), "CALLERS[0].token_sha256"),
        (callers(token_sha256=[HASH, HASH]), "CALLERS names a token twice"),
        (
            "[" + ", ".join([callers()[1:-1], callers(token_sha256=["b" * 64])[1:-1]]) + "]",
            "CALLERS names a caller twice",
        ),
    ],
)
def test_refuses_callers_that_cannot_be_right(value: str, expected: str) -> None:
    """Each fault names its place, and never a token."""
    found = faults(CALLERS=value)
    assert any(expected in fault for fault in found)
    assert not any(HASH in fault or "plain-token" in fault for fault in found)


def test_production_refuses_the_development_token() -> None:
    """The token that stands in .env.example is good for nothing that matters."""
    value = callers(token_sha256=[config.DEVELOPMENT_TOKEN_SHA256])
    assert "development token" in faults(CALLERS=value)[0]
    assert config.load(GOOD | {"CALLERS": value, "ENVIRONMENT": "development"})


def test_what_is_logged_holds_no_secret() -> None:
    """Neither the settings as they are logged nor their repr shows the password or a token's hash."""
    settings = config.load(GOOD)
    shown = json.dumps(settings.redacted()) + repr(settings)
    assert "db.internal" in shown
    assert "hunter2" not in shown
    assert HASH not in shown
