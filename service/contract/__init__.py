"""The contract of /v1 as data: limits, problems and the OpenAPI document. Every number of the API stands here once."""

import json
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Limits:
    """`limits.json`, checked for missing and unknown names when it is loaded."""

    id_characters: int
    amount_max: int  # 2^53-1: every JSON reader holds it exactly (RFC 8259, section 6)
    metadata_members: int
    metadata_name_characters: int
    metadata_value_characters: int
    batch_transfers: int
    body_bytes: int
    batch_body_bytes: int
    json_depth: int
    number_digits: int  # characters of a number in JSON text, before it is converted
    page_default: int
    page_max: int
    errors_listed: int
    reflected_characters: int  # the longest piece of input that an answer repeats
    request_deadline_seconds: int
    retry_after_seconds: int


@dataclass(frozen=True)
class ProblemType:
    """One entry of the closed catalogue in `problems.json`."""

    status: int
    title: str
    retry: str  # mend: change the request first · same: send the same again · never: the answer is final
    when: str
    members: list[str]


LIMITS = Limits(**json.loads((_FOLDER / "limits.json").read_text("utf-8")))
PROBLEMS: dict[str, ProblemType] = {
    slug: ProblemType(**entry) for slug, entry in json.loads((_FOLDER / "problems.json").read_text("utf-8")).items()
}


def openapi_bytes() -> bytes:
    """The OpenAPI document, byte for byte as it is kept in the repository."""
    return (_FOLDER / "openapi.json").read_bytes()
