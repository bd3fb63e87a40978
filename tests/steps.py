"""Random requests for the model: mostly sensible, now and then not, and often about what was asked before."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.model import HIGHEST, Model, told

Step = tuple[str, str, Any]  # method, target below /v1/, body

START = datetime(2026, 11, 22, 10, tzinfo=UTC)
OPENED = (("a", "EUR", 0), ("b", "EUR", -50), ("world", "EUR", None), ("dollars", "USD", None))
NAMES = ("a", "b", "c", "world", "dollars", "nobody")  # c is opened late or never
TIMES = (timedelta(microseconds=1), timedelta(seconds=1), timedelta(seconds=4))


class Steps:
    """Makes up requests. It knows what was sent, and asks the model for what is there to be named.

    `only` are the ways that are taken; none means all.
    """

    def __init__(self, model: Model, only: Sequence[str] = ()) -> None:
        self.model = model
        self.only = only
        self.sent: list[Step] = []
        self.used: dict[str, list[str]] = {"transfer": [], "hold": []}
        self.chance = Random()

    def next(self, chance: Random) -> Step:
        self.chance = chance
        ways: dict[Callable[[], Step], int] = {
            self.open: 4,
            self.change: 5,
            self.post: 26,
            self.batch: 9,
            self.hold: 14,
            self.release: 4,
            self.again: 9,
            self.otherwise: 5,
            self.look: 8,
            self.list: 9,
            self.past: 6,
        }
        ways = {way: times for way, times in ways.items() if not self.only or way.__name__ in self.only}
        (way,) = chance.choices(list(ways), list(ways.values()))
        step = way()
        if step[0] != "GET":
            self.sent.append(step)
        return step

    def open(self) -> Step:
        asked = {"currency": self.currency(), "min_balance": self.chance.choice([0, 0, -50, None]), **self.metadata()}
        id = self.chance.choice(NAMES[:5])
        return "PUT", f"accounts/{id}", self.chance.choice([asked, self.model.opened.get(id, asked)])

    def change(self) -> Step:
        id = self.chance.choice(NAMES)
        account = self.model.accounts.get(id, {"balance": 0, "held": 0})
        available = account["balance"] - account["held"]
        is_empty = not account["balance"] and not account["held"]
        members = {
            "min_balance": self.chance.choice([0, -50, None, available, available + 1, account["balance"]]),
            "status": self.chance.choices(["open", "frozen", "closed"], [4, 2, 4 if is_empty else 1])[0],
            "metadata": {"k": self.chance.choice("vw")},
        }
        kept = self.chance.sample(list(members), self.chance.randint(1, 2))
        return "PATCH", f"accounts/{id}", {name: members[name] for name in kept}

    def post(self) -> Step:
        body = self.body()
        return "PUT", f"transfers/{self.id('transfer')}", body

    def batch(self) -> Step:
        atomic = self.chance.random() < 0.4
        items = [self.body() | {"id": self.id("transfer")} for _ in range(self.chance.randint(1, 3 if atomic else 6))]
        return "POST", "transfers", {"atomic": atomic, "transfers": items}

    def hold(self) -> Step:
        asked = self.plain() | self.chance.choice([{}, {}, {"amount": self.chance.randint(1, 5)}])
        seconds = self.chance.choices([None, 0, 1, 3], [5, 1, 4, 4])[0]
        if seconds is not None:
            until = self.model.now + timedelta(seconds=seconds)
            elsewhere = (until + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
            asked["expires_at"] = self.chance.choice([told(until), elsewhere])
        return "PUT", f"holds/{self.id('hold')}", asked

    def release(self) -> Step:
        return "DELETE", f"holds/{self.named('hold')}", None

    def again(self) -> Step:
        """What was sent before, the same."""
        return self.chance.choice(self.sent) if self.sent else self.look()

    def otherwise(self) -> Step:
        """What was sent before, but for one member that is different, there, or gone."""
        puts = [step for step in self.sent if step[0] == "PUT"]
        if not puts:
            return self.look()
        method, target, body = self.chance.choice(puts)
        others = {"amount": 31, "metadata": {"k": "w"}, "from": "b", "currency": "USD", "expires_at": told(START)}
        others |= {"min_balance": -1, "captures": "hold1", "reverses": "transfer1"}
        name = self.chance.choice(sorted(body.keys() & others))
        gone = name in ("expires_at", "metadata", "min_balance") or (name == "amount" and "from" not in body)
        if gone and self.chance.random() < 0.3:
            return method, target, {member: value for member, value in body.items() if member != name}
        other = body | {name: others[name]}
        return (method, target, other) if other.get("from") != other.get("to", "") else (method, target, body)

    def look(self) -> Step:
        kind = self.chance.choice(["account", "transfer", "hold", "hold"])
        over = [id for id, row in self.model.holds.items() if row["status"] == "expired"][-2:]  # perhaps not in its row
        if kind == "hold" and over and self.chance.random() < 0.5:
            return "GET", f"holds/{self.chance.choice(over)}", None
        return "GET", f"{kind}s/{self.name() if kind == 'account' else self.named(kind)}", None

    def list(self) -> Step:
        limit, after = f"limit={self.chance.choice([1, 2, 3, 500])}", self.chance.randint(0, 12)
        order, before = self.chance.choice(["asc", "desc"]), after + self.chance.randint(0, 20)
        prefix = self.chance.choice(["", "&prefix=w", "&prefix=a", "&prefix=zz"])
        targets = (
            f"accounts?{limit}{prefix}&after={self.name()}",
            f"accounts/{self.name()}/entries?{limit}&order={order}&after={after}&before={before}",
            f"accounts/{self.name()}/entries?order={order}",
            f"accounts/{self.name()}/changes?{limit}&after={after % 4}",
            f"transfers?{limit}&after={after}",
        )
        return "GET", self.chance.choice(targets), None

    def past(self) -> Step:
        """The balance after a number, and around the time of a transfer or around now."""
        query = f"number={self.chance.randint(0, self.model.number + 1)}"
        if self.chance.random() < 0.6:
            moments = [told(self.model.now), *(row["created_at"] for row in self.model.posted())]
            moment = datetime.fromisoformat(self.chance.choice(moments))
            query = f"at={told(moment + timedelta(microseconds=self.chance.choice([-1, 0, 1, -(10**6)])))}"
        return "GET", f"accounts/{self.name()}/balance?{query}", None

    def body(self) -> dict[str, Any]:
        way = self.chance.choices([self.funding, self.plain, self.capture, self.reversal], [3, 4, 5, 4])[0]
        return way()

    def funding(self) -> dict[str, Any]:
        return {"from": "world", "to": self.chance.choice("abc"), "amount": self.amount(), "currency": "EUR"}

    def plain(self) -> dict[str, Any]:
        ends: set[str] = set()
        while len(ends) < 2:
            ends.add(self.name())
        source, target = self.chance.sample(sorted(ends), 2)
        sums = {"amount": self.amount(), "currency": self.currency()}
        return {"from": source, "to": target, **sums, **self.metadata()}

    def capture(self) -> dict[str, Any]:
        return {"captures": self.named("hold"), **self.part(), **self.metadata()}

    def reversal(self) -> dict[str, Any]:
        return {"reverses": self.named("transfer"), **self.part(), **self.metadata()}

    def part(self) -> dict[str, int]:
        return {"amount": self.amount() // self.chance.choice([1, 3]) or 1} if self.chance.random() < 0.6 else {}

    def id(self, kind: str) -> str:
        """A new one, or now and then one that was used before."""
        used = self.used[kind]
        if not used or self.chance.random() < 0.93:
            used.append(f"{kind}{len(used)}")
            return used[-1]
        return self.chance.choice(used)

    def named(self, kind: str) -> str:
        """One that was used, more often one that something can be done with; or one that never is."""
        used, rows = self.used[kind], self.model.holds if kind == "hold" else self.model.transfers
        alive = [id for id, row in rows.items() if row["status"] in ("open", "posted")]
        if not used or self.chance.random() < 0.03:
            return "never"
        return self.chance.choice(alive if alive and self.chance.random() < 0.6 else used)

    def name(self) -> str:
        return self.chance.choices(NAMES, [8, 8, 2, 6, 0.9, 0.2])[0]

    def amount(self) -> int:
        return HIGHEST if self.chance.random() < 0.02 else self.chance.randint(1, 30)

    def currency(self) -> str:
        return self.chance.choices(["EUR", "USD"], [20, 1])[0]

    def metadata(self) -> dict[str, Any]:
        return self.chance.choice([{}, {"metadata": {}}, {"metadata": {"k": "v"}}])
