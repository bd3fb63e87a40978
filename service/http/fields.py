"""Reading the members of a body and the parameters of a query. All errors of a body are reported together."""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from service.contract import LIMITS
from service.errors import Refusal
from service.http.request import UNPRINTABLE, excerpt, invalid_query

T = TypeVar("T")

ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{LIMITS.id_characters - 1}}}")
ID_RULE = f"must be 1 to {LIMITS.id_characters} of A-Z a-z 0-9 . _ : - and start with a letter or digit"
CURRENCY = re.compile(r"[A-Z][A-Z0-9]{2,11}")
CURRENCY_RULE = "must be 3 to 12 of A-Z 0-9 and start with a letter"
TIME = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T(?!24)[0-9]{2}(:[0-5][0-9]){2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-5][0-9])")
TIME_RULE = "must be a time such as 2026-12-01T00:00:00Z, with Z or an offset"
_INTEGER = re.compile(r"0|[1-9][0-9]{0,15}")  # in one form only; 2^53-1 has 16 digits


class FieldErrors:
    """The errors of one body, each with a JSON pointer (RFC 6901)."""

    def __init__(self) -> None:
        self._errors: list[dict[str, str]] = []

    def add(self, pointer: str, detail: str) -> None:
        self._errors.append({"pointer": excerpt(pointer), "detail": detail})

    def raise_if_any(self) -> None:
        """Raise Refusal `invalid-request` with the first `errors_listed` errors. Call it when all fields are read."""
        if self._errors:
            listed = self._errors[: LIMITS.errors_listed]
            detail = f"Errors found: {len(self._errors)}; listed: {len(listed)}."
            raise Refusal("invalid-request", detail, errors=listed)


class FieldReader:
    """Reads one JSON object member by member. For an invalid member it adds an error and returns a placeholder."""

    def __init__(
        self, value: Any, known: Collection[str], errors: FieldErrors, pointer: str = "", unknown: str = "is unknown"
    ) -> None:
        self._values: dict[str, Any] = value if isinstance(value, dict) else {}
        self._errors = errors
        self._pointer = pointer
        if not isinstance(value, dict):
            errors.add(pointer, "must be an object")
        for name in sorted(self._values.keys() - set(known)):
            self.refuse(name, unknown)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def refuse(self, name: str, rule: str) -> None:
        """Add the error that the member breaks this rule."""
        self._errors.add(f"{self._pointer}/{_escape(name)}", rule)

    def id(self, name: str) -> str:
        return self._text(name, ID, ID_RULE)

    def currency(self, name: str) -> str:
        return self._text(name, CURRENCY, CURRENCY_RULE)

    def movement(self) -> dict[str, Any]:
        """The members from, to, amount and currency, as the attributes of a command."""
        source, target = self.id("from"), self.id("to")
        if source and source == target:
            self.refuse("to", "must be another account than from")
        amount, currency = self.amount(), self.currency("currency")
        return {"from_account": source, "to_account": target, "amount": amount, "currency": currency}

    def amount(self) -> int:
        return self.integer("amount", 1, LIMITS.amount_max)

    def integer(self, name: str, lowest: int, highest: int) -> int:
        value = self._values.get(name)
        if type(value) is int and lowest <= value <= highest:  # not isinstance: True is an instance of int
            return value
        return self._refuse_value(name, f"must be an integer from {lowest} to {highest}", lowest)

    def min_balance(self, highest: int) -> int | None:
        """An integer up to `highest`; null means no floor, absent means 0."""
        if "min_balance" not in self._values:
            return 0
        if self._values["min_balance"] is None:
            return None
        return self.integer("min_balance", -LIMITS.amount_max, highest)

    def max_balance(self, lowest: int) -> int | None:
        """An integer from `lowest` on; null and absent mean no ceiling."""
        if self._values.get("max_balance") is None:
            return None
        return self.integer("max_balance", lowest, LIMITS.amount_max)

    def reference(self) -> str | None:
        """A reference has the characters of an id; null and absent mean none."""
        return None if self._values.get("reference") is None else self.id("reference")

    def time(self, name: str) -> datetime | None:
        """A time; null and absent mean none."""
        value = self._values.get(name)
        if value is None:
            return None
        time = parse_time(value) if isinstance(value, str) else None
        return time or self._refuse_value(name, TIME_RULE, None)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self._values.get(name)
        return value if value in choices else self._refuse_value(name, f"must be one of {', '.join(choices)}", "")

    def boolean(self, name: str) -> bool:
        value = self._values.get(name)
        return value if isinstance(value, bool) else self._refuse_value(name, "must be true or false", False)

    def items(self, name: str, most: int) -> list[Any]:
        value = self._values.get(name)
        if isinstance(value, list) and 1 <= len(value) <= most:
            return value
        return self._refuse_value(name, f"must be a list of 1 to {most} items", [])

    def metadata(self) -> dict[str, str]:
        """An object of strings; absent means empty."""
        value = self._values.get("metadata", {})
        if not isinstance(value, dict) or len(value) > LIMITS.metadata_members:
            rule = f"must be an object of at most {LIMITS.metadata_members} strings"
            return self._refuse_value("metadata", rule, {})
        for name, text in value.items():
            if error := _find_metadata_error(name, text):
                self._errors.add(f"{self._pointer}/metadata/{_escape(name)}", error)
        return value

    def _text(self, name: str, pattern: re.Pattern[str], rule: str) -> str:
        value = self._values.get(name)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        return self._refuse_value(name, rule, "")

    def _refuse_value(self, name: str, rule: str, placeholder: T) -> T:
        self.refuse(name, rule if name in self._values else f"is missing; it {rule}")
        return placeholder


def id_to_create(parameters: Mapping[str, str]) -> str:
    """The id in the path for a PUT, or Refusal `invalid-request`."""
    id = parameters["id"]
    if not ID.fullmatch(id):
        raise Refusal("invalid-request", f"The id in the path {ID_RULE}.", errors=[{"pointer": "", "detail": ID_RULE}])
    return id


def id_to_find(parameters: Mapping[str, str]) -> str:
    """The id in the path, or Refusal `not-found` if it cannot be an id."""
    return require_found(parameters["id"] if ID.fullmatch(parameters["id"]) else None)


def require_found(record: T | None) -> T:
    """The record, or Refusal `not-found` if there is none."""
    if record is None:
        raise Refusal("not-found", "Nothing has the id in the path.")
    return record


def query_integer(query: Mapping[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    """An integer parameter, or Refusal `invalid-query`."""
    value = query.get(name, str(default))
    if _INTEGER.fullmatch(value) and lowest <= int(value) <= highest:
        return int(value)
    raise invalid_query(name, f"must be an integer from {lowest} to {highest}")


def query_limit(query: Mapping[str, str]) -> int:
    """The number of rows per page, or Refusal `invalid-query`."""
    return query_integer(query, "limit", LIMITS.page_default, 1, LIMITS.page_max)


def query_id(query: Mapping[str, str], name: str) -> str:
    """An id or the start of an id, empty if the parameter is absent; or Refusal `invalid-query`."""
    value = query.get(name, "")
    if name in query and not ID.fullmatch(value):
        raise invalid_query(name, ID_RULE)
    return value


def query_time(query: Mapping[str, str], name: str) -> datetime | None:
    """A time parameter, None if it is absent; or Refusal `invalid-query`."""
    if name not in query:
        return None
    if time := parse_time(query[name]):
        return time
    raise invalid_query(name, TIME_RULE)


def query_choice(query: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of the choices, the first if the parameter is absent; or Refusal `invalid-query`."""
    value = query.get(name, choices[0])
    if value in choices:
        return value
    raise invalid_query(name, f"must be one of {', '.join(choices)}")


def parse_time(text: str) -> datetime | None:
    """RFC 3339 with Z or an offset and at most microseconds, as UTC; None if the text is not valid."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if TIME.fullmatch(text) else None
    except (ValueError, OverflowError):  # such as the 30th of February, or before the year 1 in UTC
        return None


def _find_metadata_error(name: str, text: Any) -> str | None:
    if not 1 <= len(name) <= LIMITS.metadata_name_characters:
        return f"must have a name of 1 to {LIMITS.metadata_name_characters} characters"
    if not isinstance(text, str) or len(text) > LIMITS.metadata_value_characters:
        return f"must be a string of at most {LIMITS.metadata_value_characters} characters"
    if UNPRINTABLE.search(name) or UNPRINTABLE.search(text):
        return "must not contain control characters or lone surrogates"
    return None


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
