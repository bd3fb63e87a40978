"""What the ledger is asked for and what it keeps: requests, the rows that they become, and the answer to each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from service.ledger.errors import Refusal


@dataclass(frozen=True)
class AccountState:
    """What the rules need of an account; for a posting it is read under the lock."""

    id: str
    currency: str
    min_balance: int | None  # None: no floor
    balance: int
    held: int
    status: str

    @property
    def available(self) -> int:
        return self.balance - self.held


@dataclass(frozen=True, kw_only=True)
class TransferRequest:
    """A transfer as the caller asks for it. `amount` is in the currency's smallest unit.

    One that captures a hold or reverses a transfer has its accounts and currency from there.
    """

    id: str
    from_account: str = ""
    to_account: str = ""
    amount: int | None  # None: all of the hold, or all that is left of the transfer
    currency: str = ""
    metadata: Mapping[str, str]
    captures: str | None = None
    reverses: str | None = None


@dataclass(frozen=True)
class HoldRequest:
    """A hold as the caller asks for it."""

    id: str
    from_account: str
    to_account: str
    amount: int
    currency: str
    expires_at: datetime | None  # None: never
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Release:
    """The wish that a hold shall hold nothing any more."""

    id: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What transfers and holds have in common. sql/ says what each None means; times come when it is written."""

    id: str
    from_account: str
    to_account: str
    amount: int
    currency: str
    metadata: Mapping[str, str]
    created_by: str
    created_at: datetime | None = None
    status: str
    reason: str | None = None
    declined_account: str | None = None
    declined_available: int | None = None


@dataclass(frozen=True, kw_only=True)
class Transfer(Record):
    """One row of the table transfer."""

    status: str = "posted"  # or declined
    number: int | None = None
    from_balance: int | None = None
    to_balance: int | None = None
    captures: str | None = None
    reverses: str | None = None
    takes_rest: bool = False


@dataclass(frozen=True, kw_only=True)
class Hold(Record):
    """One row of the table hold."""

    status: str = "open"  # or captured, released, expired, declined
    expires_at: datetime | None
    captured_by: str | None = None
    resolved_at: datetime | None = None


Request = TransferRequest | HoldRequest | Release


@dataclass(frozen=True)
class Outcome:
    """The answer to one request: done, now or before; or refused, and then no money moved, and none was set aside."""

    record: Record | None  # None: nothing is remembered under the id
    refusal: Refusal | None = None
    is_new: bool = False  # False: a replay, or nothing to remember
