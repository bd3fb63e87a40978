"""The contract of /v1 as data: limits, problems and the OpenAPI document. Each number is defined here only."""

import json
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Limits:
    """The numbers of `limits.json`. Loading fails if a name is missing or unknown."""

    id_characters: int
    amount_max: int  # 2^53-1: every JSON reader holds it exactly (RFC 8259, section 6)
    metadata_members: int
    metadata_name_characters: int
    metadata_value_characters: int
    batch_items: int
    body_bytes: int
    batch_body_bytes: int
    batch_metadata_characters: int  # of all results, names and values
    json_depth: int
    number_digits: int  # characters of a number in JSON text, before it is converted
    page_default: int
    page_max: int
    page_bytes: int
    errors_listed: int
    reflected_characters: int  # of input that a response repeats, at most
    request_deadline_seconds: int
    retry_after_seconds: int


@dataclass(frozen=True)
class ProblemType:
    """One entry of the closed catalogue in `problems.json`."""

    status: int
    title: str
    retry: str  # after-change: change the request first; same-request: send it again; never: the response is final
    when: str
    members: list[str]


LIMITS = Limits(**json.loads((_FOLDER / "limits.json").read_text("utf-8")))
PROBLEMS: dict[str, ProblemType] = {
    slug: ProblemType(**entry) for slug, entry in json.loads((_FOLDER / "problems.json").read_text("utf-8")).items()
}


def openapi_bytes() -> bytes:
    """The OpenAPI document, byte for byte as in the repository."""
    return (_FOLDER / "openapi.json").read_bytes()
