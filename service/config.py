"""Settings, read once into a frozen dataclass. All faults are found at once; secrets are never printed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

SCOPES = ("read", "write", "admin")
# SHA-256 of `development-only-token`, which stands in .env.example for all to read.
DEVELOPMENT_TOKEN_SHA256 = "91aed8ce6fb6e56b393262061070d59eddd20c5a010b1f86befd11d96319f958"

ENVIRONMENTS = ("production", "development")
LOG_LEVELS = ("debug", "info", "warning", "error")
_CALLER_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Caller:
    """A service that uses the API. It may hold several live tokens, so that one can be replaced without a gap."""

    name: str
    scopes: frozenset[str]
    token_sha256: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Config:
    """Every setting of the service. README.md has the table of the variables."""

    database_url: str = field(repr=False)
    callers: tuple[Caller, ...]
    environment: str
    host: str
    port: int
    log_level: str
    pool_size: int  # database connections
    startup_wait_seconds: int

    def redacted(self) -> dict[str, Any]:
        """The settings as they may be logged: the database without its password, callers without their tokens."""
        return {
            **vars(self),
            "database_url": _without_password(self.database_url),
            "callers": {caller.name: sorted(caller.scopes) for caller in self.callers},
        }


class ConfigError(Exception):
    """The settings are wrong. `faults` has one sentence for each, none of which repeats a secret."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def load(environment: Mapping[str, str]) -> Config:
    """Read the settings, or raise ConfigError with every fault found."""
    settings = _Settings(environment)
    config = Config(
        database_url=settings.database_url("DATABASE_URL"),
        callers=settings.callers("CALLERS"),
        environment=settings.choice("ENVIRONMENT", ENVIRONMENTS, "production"),
        host=settings.text("HOST", "0.0.0.0"),
        port=settings.whole_number("PORT", 8080, 1, 65535),
        log_level=settings.choice("LOG_LEVEL", LOG_LEVELS, "info"),
        pool_size=settings.whole_number("POOL_SIZE", 8, 1, 100),
        startup_wait_seconds=settings.whole_number("STARTUP_WAIT_SECONDS", 0, 0, 3600),
    )
    hashes = {token for caller in config.callers for token in caller.token_sha256}
    if config.environment == "production" and DEVELOPMENT_TOKEN_SHA256 in hashes:
        settings.faults.append(
            "CALLERS holds the development token, which is public: make a token of your own for production"
        )
    if settings.faults:
        raise ConfigError(settings.faults)
    return config


class _Settings:
    """Reads one variable at a time. A fault is noted and a harmless value stands in, so that reading goes on."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.faults: list[str] = []

    def text(self, name: str, default: str) -> str:
        return self.environment.get(name) or default

    def required(self, name: str, example: str) -> str:
        value = self.environment.get(name, "")
        if not value:
            self.faults.append(f"{name} is missing: set it, for example to {example}")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.faults.append(f"{name} must be one of {', '.join(choices)}")
        return value

    def whole_number(self, name: str, default: int, lowest: int, highest: int) -> int:
        value = self.text(name, str(default))
        if re.fullmatch(r"[0-9]{1,9}", value) and lowest <= int(value) <= highest:
            return int(value)
        fault = f"{name} must be a whole number from {lowest} to {highest}"
        if value.startswith("tcp://"):  # what Kubernetes puts there for a Service whose name makes the same variable
            fault += "; Kubernetes set it for a Service of that name: use enableServiceLinks: false"
        self.faults.append(fault)
        return default

    def database_url(self, name: str) -> str:
        value = self.required(name, "postgresql://ledger_service:PASSWORD@HOST:5432/ledger")
        if not is_database_url(value):
            self.faults.append(f"{name} is not a connection URL: write postgresql://USER:PASSWORD@HOST:5432/DATABASE")
        return value

    def callers(self, name: str) -> tuple[Caller, ...]:
        """The callers of a JSON list; those that are faulty stand in it as far as they can be read."""
        text = self.required(
            name, '[{"name": "checkout", "scopes": ["read", "write"], "token_sha256": ["…64 hex digits…"]}]'
        )
        if not text:
            return ()
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, list) or not entries:
            self.faults.append(f"{name} must be a JSON list with at least one caller")
            return ()
        callers = [self._caller(f"{name}[{index}]", entry) for index, entry in enumerate(entries)]
        self._refuse_twice(name, "a caller", [caller.name for caller in callers])
        self._refuse_twice(name, "a token", [token for caller in callers for token in caller.token_sha256])
        return tuple(callers)

    def _caller(self, place: str, entry: Any) -> Caller:
        if not isinstance(entry, dict) or entry.keys() != {"name", "scopes", "token_sha256"}:
            self.faults.append(f"{place} must have the members name, scopes and token_sha256, and no other")
            return Caller(place, frozenset(), ())
        name, scopes, tokens = entry["name"], entry["scopes"], entry["token_sha256"]
        if not isinstance(name, str) or not _CALLER_NAME.fullmatch(name):
            self.faults.append(f"{place}.name must be 1 to 40 of a-z, 0-9, '.', '_' and '-', beginning with a letter")
            name = place
        if not isinstance(scopes, list) or not scopes or not all(scope in SCOPES for scope in scopes):
            self.faults.append(f"{place}.scopes must be a list of some of {', '.join(SCOPES)}")
            scopes = []
        if (
            not isinstance(tokens, list)
            or not tokens
            or not all(isinstance(t, str) and _SHA256.fullmatch(t) for t in tokens)
        ):
            self.faults.append(f"{place}.token_sha256 must be a list of SHA-256 hashes in 64 small hex digits")
            tokens = []
        return Caller(name, frozenset(scopes), tuple(tokens))

    def _refuse_twice(self, name: str, what: str, values: list[str]) -> None:
        if len(set(values)) < len(values):
            self.faults.append(f"{name} names {what} twice")


def is_database_url(value: str) -> bool:
    """Whether libpq can read it; its own words about one that it cannot read may repeat the password.

    So may those about a host, port or database which is the rest of a password with a bare `@` or `/` in it.
    """
    try:
        found = conninfo_to_dict(value)
    except psycopg.ProgrammingError:
        return False
    places = f"{found.get('host', '')}{found.get('dbname', '')}"
    return "@" not in places and bool(re.fullmatch("[0-9,]*", str(found.get("port", ""))))


def _without_password(url: str) -> str:
    return make_conninfo("", **{**conninfo_to_dict(url), "password": None})
