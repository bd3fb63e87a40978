"""Strict JSON for money.

The standard library's parser accepts NaN and an object that names a member twice, reads 1e2 as a float, and fails on
deep nesting with a RecursionError. `parse_json` refuses or avoids all of these.
"""

import json
import re
from decimal import Decimal
from typing import Any

from service.contract import LIMITS
from service.errors import Refusal

# The last string may lack its closing quote: the parser then reports the position. The quantifiers are possessive,
# because a backtracking one remembers every character: 119 MB for a string of 1 MiB.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")  # no amount has an exponent of three digits
_NUMBER_RULE = f"A number has more than {LIMITS.number_digits} characters or an exponent of more than two digits."


def parse_json(body: bytes) -> Any:
    """One JSON value, or Refusal `invalid-json`. Integral numbers become int, others Decimal; no float is created."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal("invalid-json", "The body is not UTF-8.") from None
    openings = text.count("[") + text.count("{")
    if openings > LIMITS.json_depth and _depth(text) > LIMITS.json_depth:
        raise Refusal("invalid-json", f"The body nests deeper than {LIMITS.json_depth} levels.")
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise Refusal("invalid-json", f"{error.msg} at line {error.lineno}, column {error.colno}.") from None


def _depth(text: str) -> int:
    """The deepest nesting of the text, determined before the parser recurses."""
    depth = deepest = 0
    for character in re.sub(r"[^\[\]{}]+", "", _STRING.sub("", text)):
        if character in "[{":
            depth += 1
            if depth > deepest:  # a call of max() for each character would take four times as long
                deepest = depth
        else:
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise Refusal("invalid-json", "An object names one member twice.")
    return members


def _integer(text: str) -> int:
    """A number without a fraction and an exponent."""
    if len(text) > LIMITS.number_digits:
        raise Refusal("invalid-json", _NUMBER_RULE)
    return int(text)


def _number(text: str) -> int | Decimal:
    """1e2 and 100.0 are the integer 100, as in JSON Schema; some clients send integers in these forms."""
    if len(text) > LIMITS.number_digits or not _NUMBER.fullmatch(text):
        raise Refusal("invalid-json", _NUMBER_RULE)
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else value


def _constant(text: str) -> None:
    raise Refusal("invalid-json", f"{text} is not JSON.")
