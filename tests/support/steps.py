"""Random requests for the model: most are sensible, some are not, and many name what earlier requests made."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.support.model import HIGHEST, Model, format_time

Step = tuple[str, str, Any]  # method, target below /v1/, body

START = datetime(2026, 11, 22, 10, tzinfo=UTC)
OPENED = (("a", "EUR", 0), ("b", "EUR", -50), ("world", "EUR", None), ("dollars", "USD", None))
NAMES = ("a", "b", "c", "world", "dollars", "missing")  # c may be opened by a step, `missing` is not
REFERENCES = ("r1", "r2", "r3")
OPTIONAL = ("expires_at", "metadata", "min_balance", "max_balance", "reference")  # members of a PUT
RECENT = 3  # ids: a step often names one of the last ones, which in a batch are mostly those of earlier items
TIMES = (timedelta(microseconds=1), timedelta(seconds=1), timedelta(seconds=4))


class Steps:
    """Makes requests. It knows what was sent, and reads in the model what exists.

    `only` names the kinds of requests to make; if it is empty, all kinds are made.
    """

    def __init__(self, random: Random, model: Model, only: Sequence[str] = ()) -> None:
        self.random = random
        self.model = model
        self.only = only
        self.sent: list[Step] = []
        self.used: dict[str, list[str]] = {"account": [], "transfer": [], "hold": []}

    def next(self) -> Step:
        weights: dict[Callable[[], Step], int] = {
            self.open: 4,
            self.change: 5,
            self.post: 26,
            self.batch: 14,
            self.hold: 14,
            self.release: 4,
            self.repeat: 9,
            self.vary: 5,
            self.get: 8,
            self.list: 14,
            self.past_balance: 6,
        }
        weights = {make: weight for make, weight in weights.items() if not self.only or make.__name__ in self.only}
        (make,) = self.random.choices(list(weights), list(weights.values()))
        step = make()
        if step[0] != "GET":
            self.sent.append(step)
        return step

    def open(self) -> Step:
        members = self.account()
        return "PUT", f"accounts/{members.pop('id')}", members

    def change(self) -> Step:
        id = self.account_id()
        account = self.model.accounts.get(id, {"balance": 0, "held": 0})
        available = account["balance"] - account["held"]
        is_empty = not account["balance"] and not account["held"]
        balance = account["balance"]
        members = {
            "min_balance": self.random.choice([0, -50, None, available, min(available + 1, HIGHEST), balance]),
            "max_balance": self.random.choice([None, None, balance, max(balance - 1, -HIGHEST), balance + 9, HIGHEST]),
            "status": self.random.choices(["open", "frozen", "closed"], [4, 2, 4 if is_empty else 1])[0],
            "metadata": {"k": self.random.choice("vw")},
        }
        names = self.random.sample(list(members), self.random.randint(1, 2))
        return "PATCH", f"accounts/{id}", {name: members[name] for name in names}

    def post(self) -> Step:
        members = self.transfer()
        return "PUT", f"transfers/{members.pop('id')}", members

    def batch(self) -> Step:
        """Items of all kinds, which often name what earlier items of the batch open, place or post."""
        atomic = self.random.random() < 0.4
        items: list[dict[str, Any]] = []
        for _ in range(self.random.randint(1, 4 if atomic else 8)):
            items.append(self.item(items))
        return "POST", "batches", {"atomic": atomic, "items": items}

    def item(self, earlier: list[dict[str, Any]]) -> dict[str, Any]:
        """An item of a batch: a new one, or one that is earlier in the batch or was sent as a request."""
        if earlier and self.random.random() < 0.06:
            return self.random.choice(earlier)
        puts = [(target.split("/"), body) for method, target, body in self.sent if method == "PUT"]
        if puts and self.random.random() < 0.04:
            (kind, id), body = self.random.choice(puts)
            return {kind.removesuffix("s"): {"id": id, **body}}
        makers: dict[str, Callable[[], dict[str, Any]]] = {
            "account": self.account,
            "transfer": self.transfer,
            "hold": self.reservation,
            "release": lambda: {"id": self.known_id("hold")},
        }
        (kind,) = self.random.choices(list(makers), [2, 10, 4, 2])
        return {kind: makers[kind]()}

    def hold(self) -> Step:
        members = self.reservation()
        return "PUT", f"holds/{members.pop('id')}", members

    def release(self) -> Step:
        return "DELETE", f"holds/{self.known_id('hold')}", None

    def repeat(self) -> Step:
        """A request that was sent before."""
        return self.random.choice(self.sent) if self.sent else self.get()

    def vary(self) -> Step:
        """A request that was sent before, with one member changed, added or removed."""
        puts = [step for step in self.sent if step[0] == "PUT"]
        if not puts:
            return self.get()
        method, target, body = self.random.choice(puts)
        others: dict[str, Any] = {
            "amount": 31,
            "metadata": {"k": "w"},
            "from": "b",
            "currency": "USD",
            "expires_at": format_time(START),
            "min_balance": -1,
            "max_balance": 77,
            "captures": "hold1",
            "reverses": "transfer1",
        }
        if not target.startswith("accounts"):
            others["reference"] = self.random.choice([*REFERENCES, None])
        name = self.random.choice(sorted((body.keys() & others) | (others.keys() & {"reference"})))
        is_optional = name in OPTIONAL or (name == "amount" and "from" not in body)
        if is_optional and self.random.random() < 0.3:
            return method, target, {member: value for member, value in body.items() if member != name}
        varied = body | {name: others[name]}
        return (method, target, varied) if varied.get("from") != varied.get("to", "") else (method, target, body)

    def get(self) -> Step:
        """An account, a transfer or a hold; often a hold that has expired, whose row may still be open."""
        kind = self.random.choice(["account", "transfer", "hold", "hold"])
        expired = [id for id, row in self.model.holds.items() if row["status"] == "expired"][-2:]
        if kind == "hold" and expired and self.random.random() < 0.5:
            return "GET", f"holds/{self.random.choice(expired)}", None
        return "GET", f"{kind}s/{self.account_id() if kind == 'account' else self.known_id(kind)}", None

    def list(self) -> Step:
        limit, after = f"limit={self.random.choice([1, 2, 3, 500])}", self.random.randint(0, 12)
        order, before = self.random.choice(["asc", "desc"]), after + self.random.randint(0, 20)
        prefix = self.random.choice(["prefix=w", "prefix=a", "prefix=zz"])
        reference = self.random.choice(REFERENCES)
        targets = (
            f"accounts?{limit}&after={self.account_id()}",
            f"accounts?{limit}&{prefix}&after={self.account_id()}",
            f"accounts/{self.account_id()}/entries?{limit}&order={order}&after={after}&before={before}",
            f"accounts/{self.account_id()}/entries?order={order}",
            f"accounts/{self.account_id()}/entries?{limit}&order={order}&before={before}&{self.period()}",
            f"accounts/{self.account_id()}/entries?{self.period()}",
            f"accounts/{self.account_id()}/changes?{limit}&after={after % 4}",
            f"accounts/{self.account_id()}/holds?{limit}",
            f"accounts/{self.account_id()}/holds?after={self.known_id('hold')}",
            f"transfers?{limit}&after={after}",
            f"transfers?{limit}&after={after % 4}&reference={reference}",
            f"transfers?reference={reference}",
            "trial-balance",
            f"trial-balance?{prefix}",
        )
        return "GET", self.random.choice(targets), None

    def past_balance(self) -> Step:
        """The balance after a number, or near the time of a transfer, or near now."""
        query = f"number={self.random.randint(0, self.model.number + 1)}"
        if self.random.random() < 0.6:
            query = f"at={self.time()}"
        return "GET", f"accounts/{self.account_id()}/balance?{query}", None

    def period(self) -> str:
        """The parameters from or until, or both."""
        names = self.random.choice([["from"], ["until"], ["from", "until"]])
        return "&".join(f"{name}={self.time()}" for name in names)

    def time(self) -> str:
        """A time at or near that of a transfer, or now."""
        times = [format_time(self.model.now), *(row["created_at"] for row in self.model.posted())]
        time = datetime.fromisoformat(self.random.choice(times))
        return format_time(time + timedelta(microseconds=self.random.choice([-1, 0, 1, -(10**6)])))

    def account(self) -> dict[str, Any]:
        """An account to open. One that is open has mostly the members with which it was opened."""
        id = self.random.choice(NAMES[:5]) if self.random.random() < 0.6 else self.new_id("account")
        opened = self.model.opened_with.get(id)
        if opened and self.random.random() < 0.6:
            return dict(opened)
        members: dict[str, Any] = {"id": id, "currency": self.currency()}
        members |= self.random.choice([{}, {"min_balance": 0}, {"min_balance": -50}, {"min_balance": None}])
        members |= self.random.choice([{}, {"max_balance": None}, {"max_balance": self.random.choice([0, 20, 90])}])
        return members | self.metadata()

    def reservation(self) -> dict[str, Any]:
        """A hold to place."""
        members = self.plain() | self.random.choice([{}, {}, {"amount": self.random.randint(1, 5)}])
        seconds = self.random.choices([None, 0, 1, 3], [5, 1, 4, 4])[0]
        if seconds is not None:
            expires_at = self.model.now + timedelta(seconds=seconds)
            with_offset = (expires_at + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
            members["expires_at"] = self.random.choice([format_time(expires_at), with_offset])
        return {"id": self.new_id("hold"), **members}

    def transfer(self) -> dict[str, Any]:
        """A transfer to post."""
        make = self.random.choices([self.funding, self.plain, self.capture, self.reversal], [3, 4, 5, 4])[0]
        members = make()  # before the new id, so that a capture or reversal does not name itself
        return {"id": self.new_id("transfer"), **members}

    def funding(self) -> dict[str, Any]:
        return {
            "from": "world",
            "to": self.random.choice(["a", "b", "c", *self.used["account"][-1:]]),
            "amount": self.amount(),
            "currency": "EUR",
        }

    def plain(self) -> dict[str, Any]:
        ends: set[str] = set()
        while len(ends) < 2:
            ends.add(self.account_id())
        source, target = self.random.sample(sorted(ends), 2)
        amount = {"amount": self.amount(), "currency": self.currency()}
        return {"from": source, "to": target, **amount, **self.reference(), **self.metadata()}

    def capture(self) -> dict[str, Any]:
        return {"captures": self.known_id("hold"), **self.part(), **self.reference(), **self.metadata()}

    def reversal(self) -> dict[str, Any]:
        return {"reverses": self.known_id("transfer"), **self.part(), **self.reference(), **self.metadata()}

    def part(self) -> dict[str, int]:
        return {"amount": self.amount() // self.random.choice([1, 3]) or 1} if self.random.random() < 0.6 else {}

    def new_id(self, kind: str) -> str:
        """A new id; sometimes one that was used before."""
        used = self.used[kind]
        if not used or self.random.random() < 0.93:
            used.append(f"{kind}{len(used)}")
            return used[-1]
        return self.random.choice(used)

    def known_id(self, kind: str) -> str:
        """An id that was used, more often of an open hold or a posted transfer; sometimes one that was not used."""
        used, rows = self.used[kind], self.model.holds if kind == "hold" else self.model.transfers
        usable = [id for id, row in rows.items() if row["status"] in ("open", "posted")]
        if not used or self.random.random() < 0.03:
            return "unused"
        chosen = self.random.choices([usable or used, used, used[-RECENT:]], [5, 3, 3])[0]
        return self.random.choice(chosen)

    def account_id(self) -> str:
        recent = self.used["account"][-1:] or ["c"]
        return self.random.choices([*NAMES, *recent], [8, 8, 2, 6, 0.9, 0.2, 1.5])[0]

    def amount(self) -> int:
        return HIGHEST if self.random.random() < 0.02 else self.random.randint(1, 30)

    def currency(self) -> str:
        return self.random.choices(["EUR", "USD"], [20, 1])[0]

    def reference(self) -> dict[str, Any]:
        """Mostly none; null is the same as none."""
        return self.random.choice([{}, {}, {}, {"reference": None}, {"reference": self.random.choice(REFERENCES)}])

    def metadata(self) -> dict[str, Any]:
        return self.random.choice([{}, {"metadata": {}}, {"metadata": {"k": "v"}}])
