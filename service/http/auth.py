"""Authentication and scopes. Tokens are kept as hashes and compared in constant time."""

import hashlib
import hmac
import re
from collections.abc import Collection

from service.config import Caller
from service.errors import Refusal

_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")  # RFC 6750, section 2.1


def authenticate(authorization: str | None, callers: tuple[Caller, ...]) -> Caller:
    """The caller whose token the Authorization header carries, or Refusal `unauthorized`."""
    if not authorization:
        raise Refusal("unauthorized", "Send the header Authorization: Bearer with a token.")
    match = _BEARER.fullmatch(authorization)
    presented = hashlib.sha256(match[1].encode("ascii")).hexdigest() if match else ""
    # Every hash is compared, so the time does not depend on which one matches.
    known = [caller for caller in callers for sha256 in caller.token_sha256 if hmac.compare_digest(presented, sha256)]
    if not known:
        raise Refusal("unauthorized", "The token is unknown.")
    return known[0]


def authorize(scopes: Collection[str], scope: str) -> None:
    """Raise Refusal `forbidden` unless the scopes of the caller include this scope."""
    if scope not in scopes:
        raise Refusal("forbidden", f"This request needs the scope {scope}.", scope=scope)
