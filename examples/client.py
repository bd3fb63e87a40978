"""A client of the ledger in one file. Copy it: it needs only the standard library of Python 3.11 or newer.

    ledger = Ledger("https://ledger.example", token)
    ledger.post("pay_1", "world", "user:42", 1250, "EUR")

The caller chooses the ids. A call repeats the same request, with the same id, until it has a clear response. So the
request takes effect once, even if responses are lost. The rules are in docs/contract.md, "How to retry safely".

A call returns what the ledger returned, or raises one of these errors:

- `Declined`: the ledger refused the request.
- `NotApplied`: the time limit has passed, and no attempt of this call was applied. If an earlier call with the same id
  raised OutcomeUnknown, the outcome of that call is still unknown.
- `OutcomeUnknown`: an attempt may have been applied, or may still be applied. Make the same call again, with this id.
"""

import http.client
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

Json = dict[str, Any]

RESPONSE_SECONDS = 10.0  # wait for the next bytes of a response: twice request_deadline_seconds of the ledger
FIRST_BACKOFF_SECONDS = 0.1  # random wait before the first retry, at most; it doubles with each retry
MAX_BACKOFF_SECONDS = 2.0  # short, because most restarts of the ledger take a few seconds
TYPE_PREFIX = "/problems/"  # the `type` of each problem of the ledger begins with this

# After one of these problems, no earlier request with the same id can still be applied. After the other refusals, one
# whose response was lost can be.
FINAL = {
    *("id-conflict", "insufficient-funds", "max-balance-exceeded", "balance-out-of-range", "currency-mismatch"),
    *("account-frozen", "account-closed", "hold-not-open", "capture-exceeds-hold", "reversal-exceeds-transfer"),
}


@dataclass(frozen=True)
class Answer:
    """What one attempt returned. `body` is empty if there is no response, or one that is not a JSON object."""

    text: str
    status: int = 0
    body: Json = field(default_factory=dict)
    retry_after_seconds: float = 0.0

    @property
    def slug(self) -> str:
        """The slug of the ledger's problem. Empty for any other response, such as an HTML page of a gateway."""
        name = str(self.body.get("type", ""))
        return name.removeprefix(TYPE_PREFIX) if self.status >= 400 and name.startswith(TYPE_PREFIX) else ""


class LedgerError(Exception):
    """Decide by `slug`: it is empty if the last response was not a problem of the ledger. `problem` has all members."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text)
        self.slug = answer.slug
        self.problem = answer.body if answer.slug else {}


class Declined(LedgerError):
    """The ledger refused the request."""


class NotApplied(LedgerError):
    """No attempt of this call was applied."""


class OutcomeUnknown(LedgerError):
    """An attempt may have been applied, or may still be applied."""


class Ledger:
    """The ledger at a URL, over one connection that is kept open. Not for several threads at the same time.

    `seconds` is the time limit of a call: after it, no further attempt begins. Other members of a request, such as
    `metadata` or `expires_at`, are keyword arguments.
    """

    def __init__(self, url: str, token: str, seconds: float = 60.0) -> None:
        address = urlsplit(url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self.connection = kind(address.netloc, timeout=RESPONSE_SECONDS)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._seconds = seconds

    def open(self, id: str, currency: str, **members: Any) -> Json:
        return self._call("PUT", path("accounts", id), members | {"currency": currency})

    def post(self, id: str, source: str, target: str, amount: int, currency: str, **members: Any) -> Json:
        members |= {"from": source, "to": target, "amount": amount, "currency": currency}
        return self._call("PUT", path("transfers", id), members)

    def hold(self, id: str, source: str, target: str, amount: int, currency: str, **members: Any) -> Json:
        members |= {"from": source, "to": target, "amount": amount, "currency": currency}
        return self._call("PUT", path("holds", id), members)

    def capture(self, id: str, hold: str, **members: Any) -> Json:
        """Without `amount`, capture all of the hold."""
        return self._call("PUT", path("transfers", id), members | {"captures": hold})

    def reverse(self, id: str, transfer: str, **members: Any) -> Json:
        """Without `amount`, reverse what is left of the transfer."""
        return self._call("PUT", path("transfers", id), members | {"reverses": transfer})

    def release(self, hold: str) -> Json:
        return self._call("DELETE", path("holds", hold))

    def batch(self, items: list[Json], *, atomic: bool) -> list[Json]:
        """One result for each item. If not `atomic`, read the `status` of each: 200 and 201 are successes."""
        return list(self._call("POST", "/v1/batches", {"atomic": atomic, "items": items})["results"])

    def get(self, resource: str, id: str) -> Json:
        """One of the `accounts`, `transfers` or `holds`."""
        return self._call("GET", path(resource, id))

    def accounts(self, **query: Any) -> Iterator[Json]:
        return self._rows("accounts", "/v1/accounts", query)

    def entries(self, account: str, **query: Any) -> Iterator[Json]:
        return self._rows("entries", path("accounts", account) + "/entries", query)

    def holds(self, account: str, **query: Any) -> Iterator[Json]:
        return self._rows("holds", path("accounts", account) + "/holds", query)

    def transfers(self, **query: Any) -> Iterator[Json]:
        return self._rows("transfers", "/v1/transfers", query)

    def _rows(self, name: str, target: str, query: Json) -> Iterator[Json]:
        """The rows of all pages."""
        cursor = "before" if query.get("order") == "desc" else "after"
        while True:
            page = self._call("GET", f"{target}?{urlencode(query)}")
            yield from page[name]
            if page["next"] is None:
                return
            query[cursor] = page["next"]

    def _call(self, method: str, target: str, body: Json | None = None) -> Json:
        """Attempt until there is a clear response, or until the time limit."""
        content = None if body is None else json.dumps(body).encode()
        until = time.monotonic() + self._seconds
        backoff = FIRST_BACKOFF_SECONDS
        is_unclear = False  # once an attempt may have been applied, this stays true whatever a later one returns
        while True:
            answer = self._attempt(method, target, content)
            if answer.status in (200, 201) and answer.body:
                return answer.body
            is_refusal = bool(answer.slug) and answer.status < 500
            if is_refusal and (answer.slug in FINAL or not is_unclear):
                raise Declined(answer)
            is_unclear = is_unclear or (method != "GET" and answer.body.get("outcome") != "not_applied")
            seconds = answer.retry_after_seconds + random.uniform(0, backoff)
            if is_refusal or time.monotonic() + seconds > until:
                raise OutcomeUnknown(answer) if is_unclear else NotApplied(answer)
            time.sleep(seconds)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    def _attempt(self, method: str, target: str, content: bytes | None) -> Answer:
        """Send the request once. If the connection cannot be opened, nothing is sent."""
        outcome = "not_applied"
        try:
            if self.connection.sock is None:
                self.connection.connect()
            outcome = "unknown"
            self.connection.request(method, target, content, self._headers)
            response = self.connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return Answer(f"{type(error).__name__}: {error}", body={"outcome": outcome})
        wait = response.headers.get("Retry-After", "")  # seconds; a gateway may send a date, which is ignored
        seconds = float(wait) if wait.isdecimal() else 0.0
        return Answer(f"{response.status} {text[:200]!r}", response.status, read(text), seconds)


def path(resource: str, id: str) -> str:
    return f"/v1/{resource}/{quote(id, '')}"


def read(text: bytes) -> Json:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


if __name__ == "__main__":  # a second run moves nothing
    ledger = Ledger(os.environ["LEDGER_URL"], os.environ["LEDGER_TOKEN"])
    ledger.open("example:world", "EUR", min_balance=None)
    ledger.open("example:user", "EUR")
    print(json.dumps(ledger.post("example:pay_1", "example:world", "example:user", 1250, "EUR"), indent=2))
