"""The ledger once more, in the plainest words and without a database: what each request does and how it is answered.

Problems are told by their slug and members. Time stands still until `pass_time`, so that every time that the service
writes is known, but two that the columns' defaults write: when an account was opened, and when it was changed.
"""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

HIGHEST = 2**53 - 1
Answer = tuple[int, Any]


class Declined(Exception):
    """A rule was broken. The arguments are the slug, and the members of the problem."""


class TrueTime:
    """A time of a column's default: not before it was asked, not after it is seen first, and then the same for ever."""

    def __init__(self) -> None:
        self.asked_at, self.seen = told(datetime.now(UTC)), ""

    def __eq__(self, other: object) -> bool:
        if not self.seen and isinstance(other, str) and self.asked_at <= other <= told(datetime.now(UTC)):
            self.seen = other
        return self.seen == other

    def __hash__(self) -> int:
        raise TypeError("a time that is not known yet")


def told(moment: datetime) -> str:
    """A moment as the service writes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def problem(slug: str, **members: Any) -> dict[str, Any]:
    return {"slug": slug, **members}


class Model:
    """All that was asked so far, and the answer to what is asked next."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.number = self.change_number = 0
        self.accounts: dict[str, dict[str, Any]] = {}
        self.opened: dict[str, dict[str, Any]] = {}  # the members of an account as they were asked at first
        self.changes: dict[str, list[dict[str, Any]]] = {}
        self.transfers: dict[str, dict[str, Any]] = {}
        self.take_rest: set[str] = set()  # transfers that were asked without an amount
        self.holds: dict[str, dict[str, Any]] = {}
        self.problems: dict[tuple[str, str], dict[str, Any]] = {}  # of what was declined, by kind and id

    def pass_time(self, time: timedelta) -> None:
        """The moment a hold is due it holds nothing any more."""
        self.now += time
        for hold in self.holds.values():
            if hold["status"] == "open" and hold["expires_at"] and hold["expires_at"] <= told(self.now):
                hold |= {"status": "expired", "resolved_at": hold["expires_at"]}
                self.accounts[hold["from"]]["held"] -= hold["amount"]

    def answer(self, method: str, target: str, body: Any) -> Answer:
        """Do what is asked and answer it."""
        path, _, query = target.partition("?")
        asked = dict(parse_qsl(query))
        match [method, *path.split("/")[2:]]:
            case ["PUT", "accounts", id]:
                return self.open(id, {"min_balance": 0, "metadata": {}} | body)
            case ["PATCH", "accounts", id]:
                return self.change(id, body)
            case ["PUT", "transfers", id]:
                return self.post({"id": id, **body})
            case ["POST", "transfers"]:
                return self.batch(body["transfers"], body["atomic"])
            case ["PUT", "holds", id]:
                return self.hold(id, {"expires_at": None, "metadata": {}} | body)
            case ["DELETE", "holds", id]:
                return self.release(id)
            case ["GET", "transfers"]:
                posted = [{"number": row["number"], "row": row} for row in self.posted()]
                status, page = self.page(posted, "transfers", "number", asked)
                return status, page | {"transfers": [each["row"] for each in page["transfers"]]}
            case ["GET", "accounts"]:
                found = [self.shown(id) for id in sorted(self.accounts) if id.startswith(asked.get("prefix", ""))]
                return self.page(found, "accounts", "id", asked)
            case ["GET", "accounts", id] if id in self.accounts:
                return 200, self.shown(id)
            case ["GET", "accounts", id, "entries"] if id in self.accounts:
                return self.page(self.entries(id), "entries", "number", asked)
            case ["GET", "accounts", id, "changes"] if id in self.accounts:
                return self.page(self.changes[id], "changes", "change", asked)
            case ["GET", "accounts", id, "balance"] if id in self.accounts:
                return self.balance(id, asked)
            case ["GET", "transfers" | "holds" as kind, id]:
                row = (self.transfers if kind == "transfers" else self.holds).get(id)
                return (200, row) if row else (404, problem("not-found"))
        return 404, problem("not-found")

    def open(self, id: str, asked: dict[str, Any]) -> Answer:
        if id in self.accounts:
            differs = sorted(name for name in asked if self.opened[id][name] != asked[name])
            return (409, problem("id-conflict", differs=differs)) if differs else (200, self.shown(id))
        self.opened[id], self.changes[id] = asked, []
        fresh = {"id": id, "balance": 0, "held": 0, "status": "open", "created_by": "development"}
        self.accounts[id] = fresh | asked | {"created_at": TrueTime()}
        return 201, self.shown(id)

    def change(self, id: str, members: dict[str, Any]) -> Answer:
        if id not in self.accounts:
            return 404, problem("not-found")
        account, available = self.accounts[id] | members, self.available(id)
        if account["min_balance"] is not None and available < account["min_balance"]:
            return 422, problem("insufficient-funds", account=id, available=available)
        if account["status"] == "closed" and (account["balance"] or account["held"]):
            return 422, problem("account-not-empty", account=id)
        before = {name: self.accounts[id][name] for name in members if self.accounts[id][name] != members[name]}
        if before:
            self.change_number += 1
            row = {"change": self.change_number, "before": before, "after": {name: members[name] for name in before}}
            self.changes[id].append(row | {"changed_by": "development", "changed_at": TrueTime()})
        self.accounts[id] = account
        return 200, self.shown(id)

    def batch(self, items: list[dict[str, Any]], atomic: bool) -> Answer:
        before = copy.deepcopy(self.__dict__) if atomic else {}
        results = []
        for index, asked in enumerate(items):
            status, answer = self.post(asked)
            if atomic and status >= 400:
                self.__dict__ = before
                members = {name: value for name, value in answer.items() if name != "slug"}
                return 422, problem("batch-refused", index=index, reason=answer["slug"], **members)
            results.append({"status": status, "transfer" if status < 400 else "problem": copy.deepcopy(answer)})
        return 200, {"results": results}

    def post(self, asked: dict[str, Any]) -> Answer:
        id, takes_rest = asked["id"], "amount" not in asked
        asked = {"metadata": {}, "captures": None, "reverses": None} | asked
        if known := self.transfers.get(id):
            differs = {name for name in asked if known[name] != asked[name]}
            differs |= {"amount"} if takes_rest != (id in self.take_rest) else set()
            return self.again("transfer", known, sorted(differs))
        hold, original = self.holds.get(asked["captures"]), self.transfers.get(asked["reverses"])
        if asked["captures"] and not hold:
            return 422, problem("hold-not-found")
        if asked["reverses"] and not original:
            return 422, problem("transfer-not-found")
        if hold:
            ends, amount = {name: hold[name] for name in ("from", "to", "currency")}, hold["amount"]
        elif original:
            ends = {"from": original["to"], "to": original["from"], "currency": original["currency"]}
            amount = self.left(original) or original["amount"]
        else:
            ends, amount = {}, 0
        row = {"amount": amount} | asked | ends | {"created_by": "development"}
        for name in (row["from"], row["to"]):
            if name not in self.accounts:
                return 422, problem("account-not-found", account=name)
        row["created_at"] = told(self.now)
        if takes_rest:
            self.take_rest.add(id)
        try:
            self.check_transfer(row, hold, original)
        except Declined as broken:
            return self.declined("transfer", row | dict.fromkeys(("number", "from_balance", "to_balance")), broken)
        self.number += 1
        self.accounts[row["from"]]["balance"] -= row["amount"]
        self.accounts[row["to"]]["balance"] += row["amount"]
        if hold:
            self.accounts[row["from"]]["held"] -= hold["amount"]
            hold |= {"status": "captured", "captured_by": id, "resolved_at": told(self.now)}
        balances = {f"{end}_balance": self.accounts[row[end]]["balance"] for end in ("from", "to")}
        self.transfers[id] = row | balances | {"number": self.number, "status": "posted"}
        return 201, self.transfers[id]

    def check_transfer(self, row: dict[str, Any], hold: dict[str, Any] | None, original: dict[str, Any] | None) -> None:
        if hold and hold["status"] != "open":
            raise Declined("hold-not-open", {})
        if hold and row["amount"] > hold["amount"]:
            raise Declined("capture-exceeds-hold", {"available": hold["amount"]})
        if original and row["amount"] > self.left(original):
            raise Declined("reversal-exceeds-transfer", {"available": self.left(original)})
        self.check_any(row, is_new=not hold and not original, freed=hold["amount"] if hold else 0)
        if self.accounts[row["to"]]["balance"] + row["amount"] > HIGHEST:
            raise Declined("balance-out-of-range", {"account": row["to"]})

    def check_any(self, row: dict[str, Any], *, is_new: bool, freed: int) -> None:
        for id in (row["from"], row["to"]):
            if self.accounts[id]["currency"] != row["currency"]:
                raise Declined("currency-mismatch", {"account": id})
        for id in (row["from"], row["to"]):
            status = self.accounts[id]["status"]
            if status == "closed" or (status == "frozen" and is_new):
                raise Declined(f"account-{status}", {"account": id})
        source, available = self.accounts[row["from"]], self.available(row["from"])
        after = available + freed - row["amount"]
        if source["min_balance"] is not None and after < source["min_balance"]:
            raise Declined("insufficient-funds", {"account": source["id"], "available": available})
        if after < -HIGHEST:
            raise Declined("balance-out-of-range", {"account": source["id"]})

    def hold(self, id: str, asked: dict[str, Any]) -> Answer:
        asked = {**asked, "expires_at": asked["expires_at"] and told(datetime.fromisoformat(asked["expires_at"]))}
        if known := self.holds.get(id):
            return self.again("hold", known, sorted(name for name in asked if known[name] != asked[name]))
        for name in (asked["from"], asked["to"]):
            if name not in self.accounts:
                return 422, problem("account-not-found", account=name)
        row = {"id": id, **asked, "captured_by": None, "resolved_at": None}
        row |= {"created_by": "development", "created_at": told(self.now)}
        source = self.accounts[row["from"]]
        try:
            if row["expires_at"] and row["expires_at"] <= told(self.now):
                raise Declined("hold-not-open", {})
            self.check_any(row, is_new=True, freed=0)
            if source["held"] + row["amount"] > HIGHEST:
                raise Declined("balance-out-of-range", {"account": source["id"]})
        except Declined as broken:
            return self.declined("hold", row | {"resolved_at": told(self.now)}, broken)
        source["held"] += row["amount"]
        self.holds[id] = row | {"status": "open"}
        return 201, self.holds[id]

    def release(self, id: str) -> Answer:
        hold = self.holds.get(id)
        if not hold:
            return 404, problem("not-found")
        if hold["status"] in ("captured", "declined"):
            return 422, problem("hold-not-open")
        if hold["status"] == "open":
            self.accounts[hold["from"]]["held"] -= hold["amount"]
            hold |= {"status": "released", "resolved_at": told(self.now)}
        return 200, hold

    def again(self, kind: str, known: dict[str, Any], differs: list[str]) -> Answer:
        if differs:
            return 409, problem("id-conflict", differs=differs)
        return (422, self.problems[kind, known["id"]]) if known["status"] == "declined" else (200, known)

    def declined(self, kind: str, row: dict[str, Any], broken: Declined) -> Answer:
        slug, members = broken.args
        records = self.transfers if kind == "transfer" else self.holds
        records[row["id"]] = row | {"status": "declined", "reason": slug} | members
        self.problems[kind, row["id"]] = problem(slug, **members)
        return 422, self.problems[kind, row["id"]]

    def balance(self, id: str, asked: dict[str, str]) -> Answer:
        rows = self.posted()
        if "number" in asked:
            number, at = int(asked["number"]), None
            if number > self.number:
                errors = [{"parameter": "number", "detail": "must not be above that of the newest transfer"}]
                return 400, problem("invalid-query", errors=errors)
        else:
            moment = datetime.fromisoformat(asked["at"])
            at = told(moment)
            if moment >= self.now:
                errors = [{"parameter": "at", "detail": "must not be in the future"}]
                return 400, problem("invalid-query", errors=errors)
            number = sum(row["created_at"] <= at for row in rows)
        balance = next((entry["balance"] for entry in self.entries(id)[::-1] if entry["number"] <= number), 0)
        return 200, {"account": id, "balance": balance, "number": number, "at": at}

    def entries(self, id: str) -> list[dict[str, Any]]:
        found = []
        for row in self.posted():
            for end, other, sign in (("from", "to", -1), ("to", "from", 1)):
                if row[end] == id:
                    entry = {"number": row["number"], "transfer": row["id"], "amount": sign * row["amount"]}
                    entry |= {"balance": row[f"{end}_balance"], "counterparty": row[other]}
                    found.append(entry | {"created_at": row["created_at"]})
        return found

    def page(self, rows: list[dict[str, Any]], name: str, key: str, asked: dict[str, str]) -> Answer:
        kind = str if key == "id" else int
        after, before, limit = asked.get("after"), asked.get("before"), int(asked.get("limit", 50))
        found = [row for row in rows if after is None or row[key] > kind(after)]
        found = [row for row in found if before is None or row[key] < kind(before)]
        found = found[::-1] if asked.get("order") == "desc" else found
        return 200, {name: found[:limit], "next": str(found[limit - 1][key]) if len(found) > limit else None}

    def posted(self) -> list[dict[str, Any]]:
        return sorted((row for row in self.transfers.values() if row["number"]), key=lambda row: int(row["number"]))

    def left(self, original: dict[str, Any]) -> int:
        """What of a transfer may be given back yet."""
        if original["status"] == "declined":
            return 0
        given = sum(row["amount"] for row in self.posted() if row["reverses"] == original["id"])
        return int(original["amount"] - given)

    def available(self, id: str) -> int:
        return int(self.accounts[id]["balance"] - self.accounts[id]["held"])

    def shown(self, id: str) -> dict[str, Any]:
        return self.accounts[id] | {"available": self.available(id)}
