"""Reading the members of a body and the parameters of a query. All faults of a body are found before any answer."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from service.contract import LIMITS
from service.ledger.errors import Refusal
from service.wire import UNFIT, invalid_query, shown

T = TypeVar("T")

ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{LIMITS.id_characters - 1}}}")
ID_RULE = f"must be 1 to {LIMITS.id_characters} of A-Z a-z 0-9 . _ : - and begin with a letter or digit"
CURRENCY = re.compile(r"[A-Z][A-Z0-9]{2,11}")
CURRENCY_RULE = "must be 3 to 12 of A-Z 0-9 and begin with a letter"
_MOMENT = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T(?!24)[0-9]{2}(:[0-5][0-9]){2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-5][0-9])")
MOMENT_RULE = "must be a time such as 2026-12-01T00:00:00Z, with Z or an offset"
_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")  # written one way only; as many digits as 2^53-1 has


class Faults(list[dict[str, str]]):
    """The faults of one body, each with a pointer (RFC 6901) to its place."""

    def add(self, pointer: str, detail: str) -> None:
        self.append({"pointer": shown(pointer), "detail": detail})


@contextmanager
def reading() -> Iterator[Faults]:
    """A block that reads fields. At its end Refusal `invalid-request` names all faults that were found in it."""
    faults = Faults()
    yield faults
    if faults:
        listed = faults[: LIMITS.errors_listed]
        raise Refusal("invalid-request", f"{len(faults)} faults, {len(listed)} listed.", errors=listed)


class Members:
    """One JSON object, read member by member. A fault is noted and a harmless value stands in for the member."""

    def __init__(
        self, value: Any, known: Collection[str], faults: Faults, pointer: str = "", unknown: str = "is not known"
    ) -> None:
        self._values: dict[str, Any] = value if isinstance(value, dict) else {}
        self._faults = faults
        self._pointer = pointer
        if not isinstance(value, dict):
            faults.add(pointer, "must be an object")
        for name in sorted(self._values.keys() - set(known)):
            self.refuse(name, unknown)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def refuse(self, name: str, rule: str) -> None:
        """Note that the member breaks its rule."""
        self._faults.add(f"{self._pointer}/{_escaped(name)}", rule)

    def id(self, name: str) -> str:
        return self._text(name, ID, ID_RULE)

    def currency(self, name: str) -> str:
        return self._text(name, CURRENCY, CURRENCY_RULE)

    def movement(self) -> dict[str, Any]:
        """From which account to which, and how much of which currency, as the requests of the ledger have it."""
        source, target = self.id("from"), self.id("to")
        if source and source == target:
            self.refuse("to", "must be another account than from")
        amount, currency = self.amount(), self.currency("currency")
        return {"from_account": source, "to_account": target, "amount": amount, "currency": currency}

    def amount(self) -> int:
        return self.whole_number("amount", 1, LIMITS.amount_max)

    def whole_number(self, name: str, lowest: int, highest: int) -> int:
        value = self._values.get(name)
        if type(value) is int and lowest <= value <= highest:  # True is an instance of int, but not of this type
            return value
        return self._missing_or_wrong(name, f"must be a whole number from {lowest} to {highest}", lowest)

    def floor(self, name: str, highest: int) -> int | None:
        """A whole number up to the highest; null means none, absent means 0."""
        if name not in self._values:
            return 0
        return None if self._values[name] is None else self.whole_number(name, -LIMITS.amount_max, highest)

    def moment(self, name: str) -> datetime | None:
        """A moment; null and absent mean none."""
        value = self._values.get(name)
        moment = read_moment(value) if isinstance(value, str) else None
        return self._missing_or_wrong(name, MOMENT_RULE, None) if value is not None and moment is None else moment

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self._values.get(name)
        return value if value in choices else self._missing_or_wrong(name, f"must be one of {', '.join(choices)}", "")

    def boolean(self, name: str) -> bool:
        value = self._values.get(name)
        return value if isinstance(value, bool) else self._missing_or_wrong(name, "must be true or false", False)

    def items(self, name: str, most: int) -> list[Any]:
        value = self._values.get(name)
        if isinstance(value, list) and 1 <= len(value) <= most:
            return value
        return self._missing_or_wrong(name, f"must be a list of 1 to {most} items", [])

    def metadata(self, name: str) -> dict[str, str]:
        """An object of strings; absent means empty."""
        value = self._values.get(name, {})
        if not isinstance(value, dict) or len(value) > LIMITS.metadata_members:
            return self._missing_or_wrong(name, f"must be an object of at most {LIMITS.metadata_members} strings", {})
        for member, text in value.items():
            if rule := _metadata_rule_broken(member, text):
                self._faults.add(f"{self._pointer}/{name}/{_escaped(member)}", rule)
        return value

    def _text(self, name: str, pattern: re.Pattern[str], rule: str) -> str:
        value = self._values.get(name)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        return self._missing_or_wrong(name, rule, "")

    def _missing_or_wrong(self, name: str, rule: str, stand_in: T) -> T:
        self.refuse(name, rule if name in self._values else f"is missing; it {rule}")
        return stand_in


def new_id(parameters: Mapping[str, str]) -> str:
    """The id in the path, or Refusal `invalid-request` if it may not be the id of something new."""
    id = parameters["id"]
    if not ID.fullmatch(id):
        raise Refusal("invalid-request", f"The id in the path {ID_RULE}.", errors=[{"pointer": "", "detail": ID_RULE}])
    return id


def known_id(parameters: Mapping[str, str]) -> str:
    """The id in the path, or Refusal `not-found` if nothing can have it."""
    return found(parameters["id"] if ID.fullmatch(parameters["id"]) else None)


def found(something: T | None) -> T:
    """What was looked for, or Refusal `not-found`."""
    if something is None:
        raise Refusal("not-found", "Nothing has the id in the path.")
    return something


def query_number(query: Mapping[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number of the query, or Refusal `invalid-query`."""
    value = query.get(name, str(default))
    if _WHOLE_NUMBER.fullmatch(value) and lowest <= int(value) <= highest:
        return int(value)
    raise invalid_query(name, f"must be a whole number from {lowest} to {highest}")


def query_limit(query: Mapping[str, str]) -> int:
    """How many of a list are wanted, or Refusal `invalid-query`."""
    return query_number(query, "limit", LIMITS.page_default, 1, LIMITS.page_max)


def query_id(query: Mapping[str, str], name: str) -> str:
    """An id of the query or its beginning, empty when it does not say; or Refusal `invalid-query`."""
    value = query.get(name, "")
    if name in query and not ID.fullmatch(value):
        raise invalid_query(name, ID_RULE)
    return value


def query_moment(query: Mapping[str, str], name: str) -> datetime | None:
    """A moment of the query, None when it does not say; or Refusal `invalid-query`."""
    if name not in query:
        return None
    if moment := read_moment(query[name]):
        return moment
    raise invalid_query(name, MOMENT_RULE)


def read_moment(text: str) -> datetime | None:
    """RFC 3339 with a zone and at most microseconds, in UTC; None if it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if _MOMENT.fullmatch(text) else None
    except (ValueError, OverflowError):  # a 30th of February, or before the year 1 in UTC
        return None


def query_choice(query: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of the choices, the first when the query does not say; or Refusal `invalid-query`."""
    value = query.get(name, choices[0])
    if value in choices:
        return value
    raise invalid_query(name, f"must be one of {', '.join(choices)}")


def _metadata_rule_broken(name: str, text: Any) -> str | None:
    if not 1 <= len(name) <= LIMITS.metadata_name_characters:
        return f"must have a name of 1 to {LIMITS.metadata_name_characters} characters"
    if not isinstance(text, str) or len(text) > LIMITS.metadata_value_characters:
        return f"must be a string of at most {LIMITS.metadata_value_characters} characters"
    if UNFIT.search(name) or UNFIT.search(text):
        return "must be without control characters and lone surrogates"
    return None


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
