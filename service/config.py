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

_SCOPE = re.compile("|".join(SCOPES))
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
            "database_url": make_conninfo("", **{**conninfo_to_dict(self.database_url), "password": None}),
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
        environment=settings.choice("ENVIRONMENT", ("production", "development"), "production"),
        host=settings.text("HOST", "0.0.0.0"),
        port=settings.whole_number("PORT", 8080, 1, 65535),
        log_level=settings.choice("LOG_LEVEL", ("debug", "info", "warning", "error"), "info"),
        pool_size=settings.whole_number("POOL_SIZE", 8, 1, 100),
        startup_wait_seconds=settings.whole_number("STARTUP_WAIT_SECONDS", 0, 0, 3600),
    )
    is_public = any(DEVELOPMENT_TOKEN_SHA256 in caller.token_sha256 for caller in config.callers)
    rule = "CALLERS holds the development token, which is public: make a token of your own for production"
    settings.expect(config.environment != "production" or not is_public, rule)
    if settings.faults:
        raise ConfigError(settings.faults)
    return config


class _Settings:
    """Reads one variable at a time. A fault is noted and a harmless value stands in, so that reading goes on."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.faults: list[str] = []

    def expect(self, holds: bool, fault: str) -> bool:
        if not holds:
            self.faults.append(fault)
        return holds

    def text(self, name: str, default: str) -> str:
        return self.environment.get(name) or default

    def required(self, name: str, example: str) -> str:
        value = self.text(name, "")
        self.expect(value != "", f"{name} is missing: set it, for example to {example}")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        self.expect(value in choices, f"{name} must be one of {', '.join(choices)}")
        return value

    def whole_number(self, name: str, default: int, lowest: int, highest: int) -> int:
        value = self.text(name, str(default))
        fits = re.fullmatch(r"[0-9]{1,9}", value) is not None and lowest <= int(value) <= highest
        fault = f"{name} must be a whole number from {lowest} to {highest}"
        if value.startswith("tcp://"):  # what Kubernetes puts there for a Service whose name makes the same variable
            fault += "; Kubernetes set it for a Service of that name: use enableServiceLinks: false"
        return int(value) if self.expect(fits, fault) else default

    def database_url(self, name: str) -> str:
        value = self.required(name, "postgresql://ledger_service:PASSWORD@HOST:5432/ledger")
        rule = "is not a connection URL: write postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        self.expect(is_database_url(value), f"{name} {rule}")
        return value

    def callers(self, name: str) -> tuple[Caller, ...]:
        """The callers of a JSON list; those that are faulty stand in it as far as they can be read."""
        example = '[{"name": "checkout", "scopes": ["read", "write"], "token_sha256": ["…64 hex digits…"]}]'
        text = self.required(name, example)
        if not text:
            return ()
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            entries = None
        is_list = isinstance(entries, list) and entries != []
        if not self.expect(is_list, f"{name} must be a JSON list with at least one caller"):
            return ()
        callers = tuple(self._caller(f"{name}[{index}]", entry) for index, entry in enumerate(entries))
        names = [caller.name for caller in callers]
        tokens = [token for caller in callers for token in caller.token_sha256]
        self.expect(len(set(names)) == len(names), f"{name} names a caller twice")
        self.expect(len(set(tokens)) == len(tokens), f"{name} names a token twice")
        return callers

    def _caller(self, place: str, entry: Any) -> Caller:
        is_whole = isinstance(entry, dict) and entry.keys() == {"name", "scopes", "token_sha256"}
        if not self.expect(is_whole, f"{place} must have the members name, scopes and token_sha256, and no other"):
            return Caller(place, frozenset(), ())
        name_rule = "1 to 40 of a-z, 0-9, '.', '_' and '-', beginning with a letter"
        (name,) = self._strings(f"{place}.name", [entry["name"]], _CALLER_NAME, name_rule) or [place]
        scopes = self._strings(f"{place}.scopes", entry["scopes"], _SCOPE, f"a list of some of {', '.join(SCOPES)}")
        hash_rule = "a list of SHA-256 hashes in 64 small hex digits"
        tokens = self._strings(f"{place}.token_sha256", entry["token_sha256"], _SHA256, hash_rule)
        return Caller(name, frozenset(scopes), tuple(tokens))

    def _strings(self, place: str, values: Any, pattern: re.Pattern[str], rule: str) -> list[str]:
        """The list, if it has something in it and all of it fits; else none of it."""
        fit = isinstance(values, list) and all(isinstance(text, str) and pattern.fullmatch(text) for text in values)
        return values if self.expect(fit and values != [], f"{place} must be {rule}") else []


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
