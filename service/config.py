"""Settings, read once into a frozen dataclass. All errors are reported together; secrets are never printed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

SCOPES = ("read", "write", "admin")
LOGGED_PARAMETERS = ("host", "port", "dbname", "user")  # of DATABASE_URL; others, such as sslpassword, can be secret
# SHA-256 of `development-only-token`. The token is public, because .env.example contains it.
DEVELOPMENT_TOKEN_SHA256 = "91aed8ce6fb6e56b393262061070d59eddd20c5a010b1f86befd11d96319f958"

_SCOPE = re.compile("|".join(SCOPES))
_CALLER_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Caller:
    """A client of the API. It can have several valid tokens, so that one can be replaced without an interruption."""

    name: str
    scopes: frozenset[str]
    token_sha256: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Config:
    """All settings of the service. README.md has the table of the variables."""

    database_url: str = field(repr=False)
    callers: tuple[Caller, ...]
    environment: str
    host: str
    port: int
    log_level: str
    pool_size: int  # database connections
    startup_wait_seconds: int
    drain_seconds: int

    def redacted(self) -> dict[str, Any]:
        """The settings as they are logged: LOGGED_PARAMETERS of the database, names and scopes of the callers."""
        return {
            **vars(self),
            "database_url": database_location(self.database_url),
            "callers": {caller.name: sorted(caller.scopes) for caller in self.callers},
        }


class ConfigError(Exception):
    """The settings are invalid. `errors` has one sentence for each error; no sentence contains a secret."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


def load(environment: Mapping[str, str]) -> Config:
    """Read the settings. Raises ConfigError with every error."""
    settings = _SettingsReader(environment)
    config = Config(
        database_url=settings.database_url("DATABASE_URL"),
        callers=settings.callers("CALLERS"),
        environment=settings.choice("ENVIRONMENT", ("production", "development"), "production"),
        host=settings.text("HOST", "0.0.0.0"),
        port=settings.integer("PORT", 8080, 1, 65535),
        log_level=settings.choice("LOG_LEVEL", ("debug", "info", "warning", "error"), "info"),
        pool_size=settings.integer("POOL_SIZE", 8, 1, 100),
        startup_wait_seconds=settings.integer("STARTUP_WAIT_SECONDS", 0, 0, 3600),
        drain_seconds=settings.integer("DRAIN_SECONDS", 10, 0, 300),
    )
    has_public_token = any(DEVELOPMENT_TOKEN_SHA256 in caller.token_sha256 for caller in config.callers)
    if has_public_token and config.environment == "production":
        settings.errors.append("CALLERS contains the development token, which is public: replace it in production")
    if settings.errors:
        raise ConfigError(settings.errors)
    return config


class _SettingsReader:
    """Reads one variable at a time. For an invalid one it adds an error and returns a placeholder."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.errors: list[str] = []

    def check(self, is_valid: bool, error: str) -> bool:
        """Add the error if the value is not valid; return `is_valid`."""
        if not is_valid:
            self.errors.append(error)
        return is_valid

    def text(self, name: str, default: str) -> str:
        return self.environment.get(name) or default

    def required(self, name: str, example: str) -> str:
        value = self.text(name, "")
        self.check(value != "", f"{name} is missing: set it, for example to {example}")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        self.check(value in choices, f"{name} must be one of {', '.join(choices)}")
        return value

    def integer(self, name: str, default: int, lowest: int, highest: int) -> int:
        value = self.text(name, str(default))
        is_valid = re.fullmatch(r"[0-9]{1,9}", value) is not None and lowest <= int(value) <= highest
        error = f"{name} must be an integer from {lowest} to {highest}"
        if value.startswith("tcp://"):  # Kubernetes sets such variables for each Service of the namespace
            error += "; Kubernetes set it for a Service of that name: use enableServiceLinks: false"
        return int(value) if self.check(is_valid, error) else default

    def database_url(self, name: str) -> str:
        value = self.required(name, "postgresql://ledger_login:PASSWORD@HOST:5432/ledger")
        rule = "is not a connection URL: write postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        self.check(is_database_url(value), f"{name} {rule}")
        return value

    def callers(self, name: str) -> tuple[Caller, ...]:
        """The callers of a JSON list."""
        example = '[{"name": "checkout", "scopes": ["read", "write"], "token_sha256": ["…64 hex digits…"]}]'
        text = self.required(name, example)
        if not text:
            return ()
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            entries = None
        is_list = isinstance(entries, list) and entries != []
        if not self.check(is_list, f"{name} must be a JSON list with at least one caller"):
            return ()
        callers = tuple(self._caller(f"{name}[{index}]", entry) for index, entry in enumerate(entries))
        names = [caller.name for caller in callers]
        tokens = [token for caller in callers for token in caller.token_sha256]
        self.check(len(set(names)) == len(names), f"{name} names a caller twice")
        self.check(len(set(tokens)) == len(tokens), f"{name} names a token twice")
        return callers

    def _caller(self, path: str, entry: Any) -> Caller:
        is_caller = isinstance(entry, dict) and entry.keys() == {"name", "scopes", "token_sha256"}
        if not self.check(is_caller, f"{path} must have the members name, scopes and token_sha256, and no other"):
            return Caller(path, frozenset(), ())
        name = entry["name"]
        is_name = isinstance(name, str) and _CALLER_NAME.fullmatch(name) is not None
        self.check(is_name, f"{path}.name must be 1 to 40 of a-z, 0-9, '.', '_' and '-', and start with a letter")
        scopes = self._strings(f"{path}.scopes", entry["scopes"], _SCOPE, f"a list of some of {', '.join(SCOPES)}")
        hash_rule = "a list of SHA-256 hashes in 64 lower-case hex digits"
        tokens = self._strings(f"{path}.token_sha256", entry["token_sha256"], _SHA256, hash_rule)
        return Caller(name if is_name else path, frozenset(scopes), tuple(tokens))

    def _strings(self, path: str, values: Any, pattern: re.Pattern[str], rule: str) -> list[str]:
        """The list, if it is not empty and each item matches the pattern; otherwise an empty list."""
        matches = isinstance(values, list) and all(isinstance(text, str) and pattern.fullmatch(text) for text in values)
        return values if self.check(matches and values != [], f"{path} must be {rule}") else []


def database_location(url: str) -> dict[str, Any]:
    """The parameters of a connection URL that may be logged."""
    parameters = conninfo_to_dict(url)
    return {name: parameters[name] for name in LOGGED_PARAMETERS if name in parameters}


def is_database_url(value: str) -> bool:
    """Whether libpq can parse the URL. libpq's own message is not shown, because it can repeat the password.

    If the password has an unescaped `@` or `/`, a part of it becomes the host, the port or the database, which later
    messages repeat. So such a URL is not accepted.
    """
    try:
        parameters = conninfo_to_dict(value)
    except psycopg.ProgrammingError:
        return False
    names = f"{parameters.get('host', '')}{parameters.get('dbname', '')}"
    return "@" not in names and bool(re.fullmatch("[0-9,]*", str(parameters.get("port", ""))))
