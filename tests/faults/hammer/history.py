"""What the clients did: each attempt, when it began and ended, and what its response said.

An attempt is one request for one id. An item of a batch is an attempt of its own. The client repeats a command with
the same id until it has a final result, so a command can have several attempts.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The outcome of an attempt.
OK = "ok"  # the response acknowledges the write, or returns what was read
DECLINED = "declined"  # the ledger has stored the decline under the id
REFUSED = "refused"  # the response, or the lack of a connection, says that nothing was applied
UNKNOWN = "unknown"  # no response, or one with `outcome: unknown`
FINAL = (OK, DECLINED)

# The kind of an attempt: the first four write, the others read.
TRANSFER = "transfer"
HOLD = "hold"
RELEASE = "release"
OPENING = "opening"  # of an account
ACCOUNT = "account"
LOOKUP = "lookup"
FEED = "feed"  # its id is the number after which it reads
WRITES = (TRANSFER, HOLD, RELEASE, OPENING)

FEED_ROWS = 20  # the limit of a page of the feed that a client reads

# The first members of a line of the file.
INVOKED = "invoked"
RETURNED = "returned"


@dataclass(slots=True)
class Attempt:
    """One request for one id. Until it returns, its outcome is unknown. Times are those of time.monotonic()."""

    kind: str
    id: str  # of the transfer, hold or account
    body: dict[str, Any] | None  # what was requested
    replica: int  # the process that got the request
    invoked: float
    returned: float = float("inf")
    outcome: str = UNKNOWN
    status: int = 0  # of the response or of the item's result; 0 if there is none
    response: Any = None  # the record or the problem
    note: str = ""  # the error of the connection
    copied: bool = False  # the network may have delivered the request twice
    batch: str = ""  # the id of the atomic batch that it is an item of


class History:
    """All attempts, in the order in which they began. Each event is also a line of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attempts: list[Attempt] = []
        self.copies = False  # whether requests are being duplicated now
        self._file = path.open("w", encoding="utf-8")

    def invoke(self, attempts: Iterable[Attempt]) -> None:
        """Record that a request with these attempts is about to be sent."""
        for attempt in attempts:
            attempt.copied = self.copies
            self.attempts.append(attempt)
            self._write(INVOKED, attempt)

    def complete(self, attempts: Iterable[Attempt]) -> None:
        """Record that the request with these attempts has ended."""
        now = time.monotonic()
        for attempt in attempts:
            attempt.returned = now
            self._write(RETURNED, attempt)

    def close(self) -> None:
        self._file.close()

    def _write(self, event: str, attempt: Attempt) -> None:
        members = asdict(attempt)
        if event == INVOKED:
            members = {name: members[name] for name in ("kind", "id", "body", "replica", "invoked")}
        else:
            del members["body"]
        self._file.write(json.dumps({"event": event, **members}) + "\n")
