"""The settings: all errors are reported together, and secrets are never shown."""

import json
from typing import Any

import pytest

from service import config

HASH = "a" * 64
VALID = {
    "DATABASE_URL": "postgresql://ledger_service:hunter2@db.internal:5432/ledger",
    "CALLERS": json.dumps([{"name": "checkout", "scopes": ["read", "write"], "token_sha256": [HASH]}]),
}


def load_errors(**changes: str) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        config.load(VALID | changes)
    return caught.value.errors


def caller(**changes: Any) -> dict[str, Any]:
    return {"name": "checkout", "scopes": ["read"], "token_sha256": [HASH]} | changes


def test_the_defaults_are_for_production() -> None:
    """Only the database and the callers are required."""
    settings = config.load(VALID)
    assert (settings.environment, settings.host, settings.port) == ("production", "0.0.0.0", 8080)
    assert settings.callers[0].scopes == {"read", "write"}


def test_an_empty_variable_is_the_same_as_an_absent_one() -> None:
    """A template can leave a value empty to get the default."""
    assert config.load(VALID | {"PORT": "", "LOG_LEVEL": ""}).port == 8080


def test_all_errors_are_reported_together() -> None:
    """One start shows every invalid variable."""
    errors = load_errors(PORT="http", LOG_LEVEL="loud", CALLERS="")
    assert [error.split()[0] for error in errors] == ["CALLERS", "PORT", "LOG_LEVEL"]


@pytest.mark.parametrize("port", ["0", "65536", "-1", "8080.0", "٣", " 80", "8_0", "1e3"])
def test_an_invalid_port_is_refused(port: str) -> None:
    """A number is written in ASCII digits and is within its range."""
    assert load_errors(PORT=port) == ["PORT must be an integer from 1 to 65535"]


def test_a_port_set_by_kubernetes_names_the_cause() -> None:
    """Kubernetes sets such variables for each Service of the namespace."""
    assert "enableServiceLinks" in load_errors(PORT="tcp://10.0.0.1:8080")[0]


@pytest.mark.parametrize("url", ["nonsense", "postgresql://h/db?nope=hunter2", "mysql://u:hunter2@h/db"])
def test_an_invalid_database_url_is_refused(url: str) -> None:
    """The error names the variable and contains nothing of its value."""
    (error,) = load_errors(DATABASE_URL=url)
    assert error.startswith("DATABASE_URL is not a connection URL")
    assert "hunter2" not in error


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{", "must be a JSON list"),
        ("[]", "must be a JSON list"),
        ("{}", "must be a JSON list"),
        ("[1]", "CALLERS[0] must have the members"),
        ('[{"name": "a"}]', "CALLERS[0] must have the members"),
        (json.dumps([caller(extra=1)]), "CALLERS[0] must have the members"),
        (json.dumps([caller(name="Check Out")]), "CALLERS[0].name"),
        (json.dumps([caller(name=["checkout"])]), "CALLERS[0].name"),
        (json.dumps([caller(scopes=[])]), "CALLERS[0].scopes"),
        (json.dumps([caller(scopes=["root"])]), "CALLERS[0].scopes"),
        (json.dumps([caller(scopes=[[]])]), "CALLERS[0].scopes"),
        (json.dumps([caller(token_sha256=[])]), "CALLERS[0].token_sha256"),
        (json.dumps([caller(token_sha256=["A" * 64])]), "CALLERS[0].token_sha256"),
        (json.dumps([caller(token_sha256=["plain-token"])]), "CALLERS[0].token_sha256"),
        (json.dumps([caller(token_sha256=[HASH, HASH])]), "CALLERS names a token twice"),
        (json.dumps([caller(), caller(token_sha256=["b" * 64])]), "CALLERS names a caller twice"),
    ],
)
def test_invalid_callers_are_refused(value: str, expected: str) -> None:
    """Each error names the invalid member and contains no token."""
    errors = load_errors(CALLERS=value)
    assert any(expected in error for error in errors)
    assert not any(HASH in error or "plain-token" in error for error in errors)


def test_production_refuses_the_development_token() -> None:
    """The token of .env.example is public, so it is valid in development only."""
    value = json.dumps([caller(token_sha256=[config.DEVELOPMENT_TOKEN_SHA256])])
    assert "development token" in load_errors(CALLERS=value)[0]
    assert config.load(VALID | {"CALLERS": value, "ENVIRONMENT": "development"})


def test_logged_settings_contain_no_secret() -> None:
    """Neither the settings as they are logged nor their repr contain the password or a token's hash."""
    settings = config.load(VALID)
    shown = json.dumps(settings.redacted()) + repr(settings)
    assert "db.internal" in shown
    assert "hunter2" not in shown
    assert HASH not in shown


def test_only_listed_parameters_of_the_database_url_are_logged() -> None:
    """libpq has more parameters with secrets than `password`, so the log has an allow-list."""
    url = "postgresql://u:hunter2@h1:5432,h2:5433/db?sslpassword=hunter3&passfile=/hunter4&options=-c%20x%3Dhunter5"
    logged = config.load(VALID | {"DATABASE_URL": url}).redacted()["database_url"]
    assert logged == {"host": "h1,h2", "port": "5432,5433", "dbname": "db", "user": "u"}


@pytest.mark.parametrize("password", ["hunter2@x", "hunter2/x", "hun:ter2/x"])
def test_a_password_with_a_bare_separator_is_refused(password: str) -> None:
    """A part of such a password would be taken for the host, the port or the database, which are logged."""
    (error,) = load_errors(DATABASE_URL=f"postgresql://u:{password}@db.internal:5432/ledger")
    assert "hunter2" not in error
