"""A model of the ledger in memory: what each request does, and the response to it. It is simple, and has no database.

A problem is a slug with members. The model's time changes only in `pass_time`, so every time that the service writes is
known, except one that the default of a column sets: when an account was changed.
"""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

HIGHEST = 2**53 - 1
Response = tuple[int, Any]  # status and body
Row = dict[str, Any]

ACCOUNT_DEFAULTS: Row = {"min_balance": 0, "max_balance": None, "metadata": {}}
TRANSFER_DEFAULTS: Row = {"reference": None, "metadata": {}, "captures": None, "reverses": None}
HOLD_DEFAULTS: Row = {"expires_at": None, "reference": None, "metadata": {}}


class Declined(Exception):
    """A transfer or hold is declined. The arguments are the slug of the problem, and its members."""


class RealTime:
    """A time that a column's default sets. The first response that shows it decides it; then it stays the same."""

    def __init__(self) -> None:
        self.earliest, self.seen = format_time(datetime.now(UTC)), ""

    def __eq__(self, other: object) -> bool:
        if not self.seen and isinstance(other, str) and self.earliest <= other <= format_time(datetime.now(UTC)):
            self.seen = other
        return self.seen == other

    def __hash__(self) -> int:
        raise TypeError("a time that is not known yet")


def format_time(time: datetime) -> str:
    """A time as the service writes it."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def problem(slug: str, **members: Any) -> Row:
    return {"slug": slug, **members}


class Model:
    """The state after the requests so far, and the response to the next request."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.number = self.change_number = 0
        self.accounts: dict[str, Row] = {}
        self.opened_with: dict[str, Row] = {}  # the members of the request that opened the account
        self.changes: dict[str, list[Row]] = {}
        self.transfers: dict[str, Row] = {}
        self.take_rest: set[str] = set()  # transfers whose request had no amount
        self.own_references: dict[str, str | None] = {}  # the references of the requests, by the transfer's id
        self.holds: dict[str, Row] = {}
        self.problems: dict[tuple[str, str], Row] = {}  # of declined transfers and holds, by kind and id

    def pass_time(self, time: timedelta) -> None:
        """A hold expires at `expires_at` and then reserves nothing."""
        self.now += time
        for hold in self.holds.values():
            if hold["status"] == "open" and hold["expires_at"] and hold["expires_at"] <= format_time(self.now):
                hold |= {"status": "expired", "resolved_at": hold["expires_at"]}
                self.accounts[hold["from"]]["held"] -= hold["amount"]

    def respond(self, method: str, target: str, body: Any, *, is_admin: bool = True) -> Response:
        """Apply the request and return the response. All callers may read and write."""
        path, _, query = target.partition("?")
        segments = path.split("/")[2:]
        if method == "GET":
            return self.read(segments, dict(parse_qsl(query)))
        if not is_admin and self.needs_admin(method, segments, body):
            return 403, problem("forbidden", scope="admin")
        match [method, *segments]:
            case ["PATCH", "accounts", id]:
                return self.change(id, body)
            case ["POST", "batches"]:
                return self.batch(body["items"], body["atomic"])
            case ["PUT", kind, id]:
                return self.apply(kind.removesuffix("s"), {"id": id, **body})
            case ["DELETE", "holds", id]:
                return self.apply("release", {"id": id})
        raise AssertionError(f"bug: {method} {target} is not in the model")

    def needs_admin(self, method: str, segments: list[str], body: Any) -> bool:
        """Whether the request changes an account, or opens one whose floor is below 0."""
        items = body["items"] if segments == ["batches"] else []
        opened = [item["account"] for item in items if "account" in item]
        opened += [body] if method == "PUT" and segments[0] == "accounts" else []
        floors = [members.get("min_balance", 0) for members in opened]
        return method == "PATCH" or any(floor is None or floor < 0 for floor in floors)

    def apply(self, kind: str, members: Row) -> Response:
        """Apply one item of a batch. A PUT and a DELETE are a batch of one."""
        match kind:
            case "account":
                return self.open(members["id"], ACCOUNT_DEFAULTS | members)
            case "transfer":
                return self.post(TRANSFER_DEFAULTS | members)
            case "hold":
                return self.hold(HOLD_DEFAULTS | members)
            case "release":
                return self.release(members["id"])
        raise AssertionError(f"bug: {kind} is not in the model")

    def read(self, segments: list[str], query: dict[str, str]) -> Response:
        match segments:
            case ["transfers"]:
                found = [row for row in self.posted() if query.get("reference") in (None, row["reference"])]
                return self.page(found, "transfers", "number", query)
            case ["trial-balance"]:
                return 200, self.trial_balance(query.get("prefix", ""))
            case ["accounts"]:
                found = [self.account(id) for id in sorted(self.accounts) if id.startswith(query.get("prefix", ""))]
                return self.page(found, "accounts", "id", query)
            case ["accounts", id] if id in self.accounts:
                return 200, self.account(id)
            case ["accounts", id, "entries"] if id in self.accounts:
                return self.entries_between(id, query)
            case ["accounts", id, "holds"] if id in self.accounts:
                holds = [self.holds[hold] for hold in sorted(self.holds)]
                open_holds = [hold for hold in holds if hold["from"] == id and hold["status"] == "open"]
                return self.page(open_holds, "holds", "id", query)
            case ["accounts", id, "changes"] if id in self.accounts:
                return self.page(self.changes[id], "changes", "change", query)
            case ["accounts", id, "balance"] if id in self.accounts:
                return self.past_balance(id, query)
            case ["transfers", id] if id in self.transfers:
                return 200, self.transfers[id]
            case ["holds", id] if id in self.holds:
                return 200, self.holds[id]
        return 404, problem("not-found")

    def open(self, id: str, members: Row) -> Response:
        if id in self.accounts:
            differs = sorted(name for name in members if self.opened_with[id][name] != members[name])
            return (409, problem("id-conflict", differs=differs)) if differs else (200, self.account(id))
        self.opened_with[id], self.changes[id] = members, []
        new = {"balance": 0, "held": 0, "status": "open", "created_by": "development"}
        self.accounts[id] = new | members | {"created_at": format_time(self.now)}
        return 201, self.account(id)

    def change(self, id: str, members: Row) -> Response:
        if id not in self.accounts:
            return 404, problem("not-found")
        account, available = self.accounts[id] | members, self.available(id)
        if account["min_balance"] is not None and available < account["min_balance"]:
            return 422, problem("insufficient-funds", account=id, available=available)
        if account["max_balance"] is not None and account["balance"] > account["max_balance"]:
            return 422, problem("max-balance-exceeded", account=id, available=0)
        if account["status"] == "closed" and (account["balance"] or account["held"]):
            return 422, problem("account-not-empty", account=id)
        before = {name: self.accounts[id][name] for name in members if self.accounts[id][name] != members[name]}
        if before:
            self.change_number += 1
            row = {"change": self.change_number, "before": before, "after": {name: members[name] for name in before}}
            self.changes[id].append(row | {"changed_by": "development", "changed_at": RealTime()})
        self.accounts[id] = account
        return 200, self.account(id)

    def batch(self, items: list[Row], atomic: bool) -> Response:
        before = copy.deepcopy(self.__dict__) if atomic else {}
        results = []
        for index, item in enumerate(items):
            [(kind, item_members)] = item.items()
            status, body = self.apply(kind, item_members)
            if atomic and status >= 400:
                self.__dict__ = before
                members = {name: value for name, value in body.items() if name != "slug"}
                return 422, problem("batch-refused", index=index, reason=body["slug"], **members)
            name = "problem" if status >= 400 else "hold" if kind == "release" else kind
            results.append({"status": status, name: copy.deepcopy(body)})
        return 200, {"results": results}

    def post(self, members: Row) -> Response:
        id, takes_rest = members["id"], "amount" not in members
        if known := self.transfers.get(id):
            first = known | {"reference": self.own_references[id]}
            differs = {name for name in members if first[name] != members[name]}
            differs |= {"amount"} if takes_rest != (id in self.take_rest) else set()
            return self.replay("transfer", known, sorted(differs))
        hold, original = self.holds.get(members["captures"]), self.transfers.get(members["reverses"])
        if members["captures"] and not hold:
            return 422, problem("hold-not-found")
        if members["reverses"] and not original:
            return 422, problem("transfer-not-found")
        row = self.build_transfer(members, hold, original)
        if missing := self.missing_account(row):
            return 422, problem("account-not-found", account=missing)
        self.own_references[id] = members["reference"]
        if takes_rest:
            self.take_rest.add(id)
        try:
            self.check_transfer(row, hold, original)
        except Declined as declined:
            return self.decline("transfer", row | dict.fromkeys(("number", "from_balance", "to_balance")), declined)
        return self.apply_transfer(row, hold)

    def build_transfer(self, members: Row, hold: Row | None, original: Row | None) -> Row:
        """The transfer, with the members that come from the hold or from the original transfer."""
        row = members | {"created_by": "development", "created_at": format_time(self.now)}
        if followed := hold or original:
            row["reference"] = row["reference"] or followed["reference"]
        if hold:
            return {"amount": hold["amount"]} | row | {name: hold[name] for name in ("from", "to", "currency")}
        if original:
            ends = {"from": original["to"], "to": original["from"], "currency": original["currency"]}
            return {"amount": self.reversible(original) or original["amount"]} | row | ends
        return row

    def missing_account(self, row: Row) -> str | None:
        return next((row[end] for end in ("from", "to") if row[end] not in self.accounts), None)

    def apply_transfer(self, row: Row, hold: Row | None) -> Response:
        self.number += 1
        self.accounts[row["from"]]["balance"] -= row["amount"]
        self.accounts[row["to"]]["balance"] += row["amount"]
        if hold:
            self.accounts[row["from"]]["held"] -= hold["amount"]
            hold |= {"status": "captured", "captured_by": row["id"], "resolved_at": format_time(self.now)}
        balances = {f"{end}_balance": self.accounts[row[end]]["balance"] for end in ("from", "to")}
        self.transfers[row["id"]] = row | balances | {"number": self.number, "status": "posted"}
        return 201, self.transfers[row["id"]]

    def check_transfer(self, row: Row, hold: Row | None, original: Row | None) -> None:
        if hold and hold["status"] != "open":
            raise Declined("hold-not-open", {})
        if hold and row["amount"] > hold["amount"]:
            raise Declined("capture-exceeds-hold", {"available": hold["amount"]})
        if original and row["amount"] > self.reversible(original):
            raise Declined("reversal-exceeds-transfer", {"available": self.reversible(original)})
        self.check_common(row, allow_frozen=bool(hold or original), freed=hold["amount"] if hold else 0)
        target = self.accounts[row["to"]]
        if target["max_balance"] is not None and target["balance"] + row["amount"] > target["max_balance"]:
            left = target["max_balance"] - target["balance"]
            raise Declined("max-balance-exceeded", {"account": target["id"], "available": left})
        if target["balance"] + row["amount"] > HIGHEST:
            raise Declined("balance-out-of-range", {"account": row["to"]})

    def check_common(self, row: Row, *, allow_frozen: bool, freed: int) -> None:
        """The rules that transfers and holds share. `freed` is the amount of the hold that a transfer captures."""
        for id in (row["from"], row["to"]):
            if self.accounts[id]["currency"] != row["currency"]:
                raise Declined("currency-mismatch", {"account": id})
        for id in (row["from"], row["to"]):
            status = self.accounts[id]["status"]
            if status == "closed" or (status == "frozen" and not allow_frozen):
                raise Declined(f"account-{status}", {"account": id})
        source, available = self.accounts[row["from"]], self.available(row["from"])
        remaining = available + freed - row["amount"]
        if source["min_balance"] is not None and remaining < source["min_balance"]:
            raise Declined("insufficient-funds", {"account": source["id"], "available": available})
        if remaining < -HIGHEST:
            raise Declined("balance-out-of-range", {"account": source["id"]})

    def hold(self, members: Row) -> Response:
        if members["expires_at"]:
            members = members | {"expires_at": format_time(datetime.fromisoformat(members["expires_at"]))}
        if known := self.holds.get(members["id"]):
            return self.replay("hold", known, sorted(name for name in members if known[name] != members[name]))
        if missing := self.missing_account(members):
            return 422, problem("account-not-found", account=missing)
        row = members | {"captured_by": None, "resolved_at": None}
        row |= {"created_by": "development", "created_at": format_time(self.now)}
        source = self.accounts[row["from"]]
        try:
            if row["expires_at"] and row["expires_at"] <= format_time(self.now):
                raise Declined("hold-not-open", {})
            self.check_common(row, allow_frozen=False, freed=0)
            if source["held"] + row["amount"] > HIGHEST:
                raise Declined("balance-out-of-range", {"account": source["id"]})
        except Declined as declined:
            return self.decline("hold", row | {"resolved_at": format_time(self.now)}, declined)
        source["held"] += row["amount"]
        self.holds[row["id"]] = row | {"status": "open"}
        return 201, self.holds[row["id"]]

    def release(self, id: str) -> Response:
        hold = self.holds.get(id)
        if not hold:
            return 404, problem("not-found")
        if hold["status"] in ("captured", "declined"):
            return 422, problem("hold-not-open")
        if hold["status"] == "open":
            self.accounts[hold["from"]]["held"] -= hold["amount"]
            hold |= {"status": "released", "resolved_at": format_time(self.now)}
        return 200, hold

    def replay(self, kind: str, known: Row, differs: list[str]) -> Response:
        if differs:
            return 409, problem("id-conflict", differs=differs)
        return (422, self.problems[kind, known["id"]]) if known["status"] == "declined" else (200, known)

    def decline(self, kind: str, row: Row, declined: Declined) -> Response:
        slug, members = declined.args
        rows = self.transfers if kind == "transfer" else self.holds
        rows[row["id"]] = row | {"status": "declined", "reason": slug} | members
        self.problems[kind, row["id"]] = problem(slug, **members)
        return 422, self.problems[kind, row["id"]]

    def past_balance(self, id: str, query: dict[str, str]) -> Response:
        if "number" in query:
            number, at = int(query["number"]), None
            if number > self.number:
                detail = "must not be greater than the number of the newest transfer"
                return 400, problem("invalid-query", errors=[{"parameter": "number", "detail": detail}])
        else:
            time = datetime.fromisoformat(query["at"])
            at = format_time(time)
            if time >= self.now:
                return 400, problem("invalid-query", errors=[{"parameter": "at", "detail": "must be in the past"}])
            number = sum(row["created_at"] <= at for row in self.posted())
        balance = next((entry["balance"] for entry in self.entries(id)[::-1] if entry["number"] <= number), 0)
        return 200, {"account": id, "balance": balance, "number": number, "at": at}

    def trial_balance(self, prefix: str) -> Row:
        """The sums of the accounts whose ids start with the prefix, by currency. Sums are strings."""
        found = [account for id, account in self.accounts.items() if id.startswith(prefix)]
        rows = []
        for currency in sorted({account["currency"] for account in found}):
            balances = [account["balance"] for account in found if account["currency"] == currency]
            held = sum(account["held"] for account in found if account["currency"] == currency)
            debit = -sum(balance for balance in balances if balance < 0)
            sums = {"credit": sum(balances) + debit, "debit": debit, "balance": sum(balances), "held": held}
            texts = {name: str(value) for name, value in sums.items()}
            rows.append({"currency": currency, "accounts": len(balances)} | texts)
        return {"number": self.number, "currencies": rows}

    def entries_between(self, id: str, query: dict[str, str]) -> Response:
        """A page of the account's entries, from the time `from` and before the time `until`."""
        start, end = (datetime.fromisoformat(query[name]) if name in query else None for name in ("from", "until"))
        if end and end > self.now:
            return 400, problem("invalid-query", errors=[{"parameter": "until", "detail": "must not be in the future"}])
        found = [row for row in self.entries(id) if not start or row["created_at"] >= format_time(start)]
        found = [row for row in found if not end or row["created_at"] < format_time(end)]
        return self.page(found, "entries", "number", query)

    def entries(self, id: str) -> list[Row]:
        found = []
        for row in self.posted():
            for end, other, sign in (("from", "to", -1), ("to", "from", 1)):
                if row[end] == id:
                    entry = {"number": row["number"], "transfer": row["id"], "amount": sign * row["amount"]}
                    entry |= {"balance": row[f"{end}_balance"], "counterparty": row[other]}
                    found.append(entry | {"created_at": row["created_at"]})
        return found

    def page(self, rows: list[Row], name: str, key: str, query: dict[str, str]) -> Response:
        read_cursor = str if key == "id" else int
        after, before, limit = query.get("after"), query.get("before"), int(query.get("limit", 50))
        found = [row for row in rows if after is None or row[key] > read_cursor(after)]
        found = [row for row in found if before is None or row[key] < read_cursor(before)]
        found = found[::-1] if query.get("order") == "desc" else found
        return 200, {name: found[:limit], "next": str(found[limit - 1][key]) if len(found) > limit else None}

    def posted(self) -> list[Row]:
        """The posted transfers by number."""
        return sorted((row for row in self.transfers.values() if row["number"]), key=lambda row: int(row["number"]))

    def reversible(self, original: Row) -> int:
        """The part of a transfer that is not reversed yet; 0 if it was declined."""
        if original["status"] == "declined":
            return 0
        reversed = sum(row["amount"] for row in self.posted() if row["reverses"] == original["id"])
        return int(original["amount"] - reversed)

    def available(self, id: str) -> int:
        return int(self.accounts[id]["balance"] - self.accounts[id]["held"])

    def account(self, id: str) -> Row:
        """The account as responses show it."""
        return self.accounts[id] | {"available": self.available(id)}
