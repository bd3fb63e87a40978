"""`make soak`: 64 callers send requests of all kinds for SECONDS; then every response is compared with the ledger.

Without a URL it starts a service and a PostgreSQL, and then also audits the ledger, counts deadlocks and reads the
service's log. With a URL, LEDGER_TOKEN needs all scopes. The exit code is 1 if there is a violation: a response that no
rule allows, such as 503; two different responses to the same request; an acknowledged transfer that is not in the feed
exactly once as it was acknowledged; or a trial balance that is not 0, or not the sum of the accounts.
"""

import http.client
import json
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import dotenv
import psycopg

from dev import postgres, run
from service.ledger import audit
from service.migrate import runner
from service.migrate.files import read_files
from tests.support import live
from tests.support.threads import Call

CALLERS = 64
ACCOUNTS = 40
MIN_REQUESTS = 10  # of each caller, so that a short run on a slow machine also sends requests of all kinds
HTTP_TIMEOUT_SECONDS = 20  # longer than the service's deadline, shorter than the limit of a wait
KINDS = "plain " * 5 + "batch batch hold hold capture release reverse change repeat read read read read"
ITEMS = ("account", "hold", "release", "capture", "reverse", "plain", "plain", "plain")  # kinds of items of a batch
CEILING = 100  # max_balance of some accounts: a few transfers reach it
REFERENCES = 20
UNUSED = "unused"  # an id that no request creates
CHANGEABLE = ("status", "captured_by", "resolved_at")  # members of a hold that may change after it was placed
AMOUNTS = ("balance", "held", "available")  # members of an account that may change; only the first accounts are patched
TRIAL_BALANCE_READS = 10  # until no hold expires meanwhile: they expire after up to 3 s

Request = tuple[str, str, Any]  # method, target below /v1/, body


class Soak:
    """The callers of one service, what the service acknowledged to them, and the violations that were found."""

    def __init__(self, url: str, callers: int = CALLERS, token: str = run.TOKEN) -> None:
        self.url = url
        self.token = token
        self.run_id = f"soak-{time.time_ns()}"
        self.responses: Counter[tuple[str, str]] = Counter()  # by kind of request, and status with slug
        self.acknowledged: dict[str, Any] = {}  # transfers as they were returned
        self.placed: dict[str, Any] = {}  # holds as they were returned
        self.opened: dict[str, Any] = {}  # accounts that a batch opened, as they were returned
        self.declined: set[str] = set()
        self.violations: list[str] = []
        self.recent_holds, self.recent_transfers = deque([UNUSED], maxlen=100), deque([UNUSED], maxlen=100)
        self._counting = threading.Lock()
        self.callers = [Caller(self, number) for number in range(callers)]

    def run(self, seconds: float) -> None:
        """Let all callers work for that time, then check."""
        for n in range(ACCOUNTS):
            members = {"currency": "EUR", "min_balance": [0, None][n % 2], "max_balance": [None, None, CEILING][n % 3]}
            self.callers[0].send("open", "PUT", f"accounts/{self.run_id}:{n}", members)
        until = time.monotonic() + seconds
        calls = [Call(partial(caller.work, until)) for caller in self.callers]
        time.sleep(seconds)
        for call in calls:
            call.result()
        self.check()

    def check(self) -> None:
        """Compare the feed, the declined transfers, the holds and the accounts with what was returned before."""
        reader = Caller(self, -1)
        seen: Counter[str] = Counter()
        after = "0"
        while after:
            page = reader.send("check", "GET", f"transfers?limit=500&after={after}")
            for row in (row for row in page["transfers"] if row["id"].startswith(self.run_id)):
                seen[row["id"]] += 1
                if (acknowledged := self.acknowledged.get(row["id"])) != row:
                    self.violations.append(f"{row['id']} was acknowledged as {acknowledged} and is {row}")
            after = page["next"]
        self.violations.extend(f"{id} is {seen[id]} times in the feed" for id in self.acknowledged if seen[id] != 1)
        for id in self.declined:
            if seen[id] or reader.send("check", "GET", f"transfers/{id}").get("status") != "declined":
                self.violations.append(f"{id} was declined and is not declined now")
        for resource, shown, changeable in (("holds", self.placed, CHANGEABLE), ("accounts", self.opened, AMOUNTS)):
            for id, before in shown.items():
                now = reader.send("check", "GET", f"{resource}/{id}")
                if before | dict.fromkeys(changeable) != now | dict.fromkeys(changeable):
                    self.violations.append(f"{id} was acknowledged as {before} and is {now}")
        self.check_trial_balance(reader)
        reader.connection.close()

    def check_trial_balance(self, reader: "Caller") -> None:
        """The trial balance of the run's accounts is 0, and is the sum of the accounts."""
        path = f"trial-balance?prefix={self.run_id}"
        for _ in range(TRIAL_BALANCE_READS):
            shown, summed = reader.send("check", "GET", path)["currencies"], self.sum_accounts(reader)
            if reader.send("check", "GET", path)["currencies"] == shown:  # no hold has expired between the reads
                break
        if shown != [summed] or summed["balance"] != "0":
            self.violations.append(f"the trial balance is {shown}, and the sum of the accounts {summed}")

    def sum_accounts(self, reader: "Caller") -> dict[str, Any]:
        """The trial balance of the run's accounts, from the list of the accounts."""
        accounts, after = [], self.run_id
        while after:
            page = reader.send("check", "GET", f"accounts?prefix={self.run_id}&limit=500&after={after}")
            accounts += page["accounts"]
            after = page["next"]
        balances = [account["balance"] for account in accounts]
        return {
            "currency": "EUR",
            "accounts": len(accounts),
            "credit": str(sum(balance for balance in balances if balance > 0)),
            "debit": str(-sum(balance for balance in balances if balance < 0)),
            "balance": str(sum(balances)),
            "held": str(sum(account["held"] for account in accounts)),
        }

    def record_hold(self, hold: dict[str, Any]) -> None:
        self.placed[hold["id"]] = hold
        self.recent_holds.append(hold["id"])

    def record(self, id: str, body: dict[str, Any]) -> None:
        """Record the response to a transfer."""
        if "number" in body:
            self.acknowledged[id] = body
            self.recent_transfers.append(id)
        elif not slug_of(body).endswith("not-found"):
            self.declined.add(id)

    def count(self, kind: str, status: int, body: dict[str, Any]) -> None:
        with self._counting:
            self.responses[kind, f"{status} {slug_of(body)}"] += 1


class Caller:
    """A client with one kept-alive connection, and its last transfers, which it repeats."""

    def __init__(self, soak: Soak, number: int) -> None:
        self.soak = soak
        self.number = number
        self.connection = http.client.HTTPConnection(urlsplit(soak.url).netloc, timeout=HTTP_TIMEOUT_SECONDS)
        self.puts: deque[tuple[Request, Any]] = deque(maxlen=50)  # each with its response

    def work(self, until: float) -> None:
        """Send random requests until that time of time.monotonic()."""
        number = 0
        while time.monotonic() < until or number < MIN_REQUESTS:
            number += 1
            kind = random.choice(KINDS.split()) if self.puts else "plain"
            try:
                if kind == "repeat":
                    self.repeat()
                else:
                    self.send_new(kind, f"{self.soak.run_id}-{self.number}-{number}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.soak.violations.append(f"{kind}: {error!r}")
                self.connection.close()
        self.connection.close()

    def repeat(self) -> None:
        """Send a request again, whose response must be the same."""
        (method, target, body), before = random.choice(self.puts)
        response = self.send("repeat", method, target, body)
        if before | {"request_id": ""} != response | {"request_id": ""}:
            self.soak.violations.append(f"{target} returned {before}, then {response}")

    def send_new(self, kind: str, id: str) -> None:
        """Send a new request and record its response."""
        method, target, body = self.make_request(kind, id)
        response = self.send(kind, method, target, body)
        if kind == "hold" and "amount" in response:
            self.soak.record_hold(response)
        if kind in ("plain", "capture", "reverse"):
            self.soak.record(id, response)
            self.puts.append(((method, target, body), response))
        if "reference=" in target:
            self.check_references(target, response)
        for item, result in zip(body["items"], response["results"], strict=True) if "results" in response else ():
            self.record_item(item, result)

    def record_item(self, item: dict[str, Any], result: dict[str, Any]) -> None:
        """Record the result of an item of a batch."""
        [(kind, members)] = item.items()
        self.soak.count("item", result["status"], result.get("problem", {}))
        if not is_allowed(result["status"], members["id"]):
            self.soak.violations.append(f"the item {item} got {result}")
        elif kind == "transfer":
            self.soak.record(members["id"], result.get("transfer") or result["problem"])
        elif kind == "hold" and "hold" in result:
            self.soak.record_hold(result["hold"])
        elif kind == "account":
            self.soak.opened[members["id"]] = result["account"]

    def check_references(self, target: str, page: dict[str, Any]) -> None:
        """A page of a reference has only transfers with this reference."""
        reference = target.partition("reference=")[2]
        others = [row for row in page["transfers"] if row["reference"] != reference]
        self.soak.violations.extend(f"{target} returned {row}" for row in others)

    def make_request(self, kind: str, id: str) -> Request:
        account = f"{self.soak.run_id}:{random.randrange(ACCOUNTS)}"
        change = {
            "status": random.choice(["frozen", *["open"] * 9]),
            "min_balance": random.choice([None, 0]),
            "max_balance": random.choice([None, CEILING]),
        }
        match kind:
            case "hold":
                return "PUT", f"holds/{id}", self.hold()
            case "release":
                return "DELETE", f"holds/{random.choice(self.soak.recent_holds)}", None
            case "change":
                return "PATCH", f"accounts/{account}", change
            case "batch":
                return "POST", "batches", {"atomic": random.random() < 0.3, "items": self.make_items(id)}
            case "read":
                return "GET", self.make_read(account), None
        return "PUT", f"transfers/{id}", self.transfer(kind)

    def make_items(self, id: str) -> list[dict[str, Any]]:
        """The items of a batch. Some of the transfers and holds are to the accounts that it opens."""
        items: list[dict[str, Any]] = []
        opened: list[str] = []
        for number, kind in enumerate(random.choices(ITEMS, k=random.randint(1, 20))):
            id_of_item = f"{id}-{number}"
            match kind:
                case "account":
                    opened.append(id_of_item)
                    members = {"currency": "EUR", "max_balance": random.choice([None, CEILING])}
                    items.append({"account": {"id": id_of_item} | members})
                case "hold":
                    items.append({"hold": {"id": id_of_item} | self.hold(opened)})
                case "release":
                    items.append({"release": {"id": random.choice(self.soak.recent_holds)}})
                case _:
                    items.append({"transfer": {"id": id_of_item} | self.transfer(kind, opened)})
        return items

    def make_read(self, account: str) -> str:
        """The target of a read."""
        soak = self.soak
        end = datetime.now(UTC) - timedelta(seconds=random.uniform(1, 4))
        start, end_text = (time.isoformat().replace("+00:00", "Z") for time in (end - timedelta(seconds=2), end))
        views = ["", "/entries", f"/entries?from={start}&until={end_text}", "/changes", "/holds"]
        return random.choice(
            [
                *(f"accounts/{account}{view}" for view in [*views, f"/balance?at={end_text}"]),
                f"accounts?prefix={soak.run_id}",
                f"trial-balance?prefix={soak.run_id}",
                "transfers",
                f"transfers?reference={self.reference()}",
                f"transfers/{random.choice(soak.recent_transfers)}",
                f"holds/{random.choice(soak.recent_holds)}",
            ]
        )

    def transfer(self, kind: str, opened: Sequence[str] = ()) -> dict[str, Any]:
        """The body of a plain transfer, a capture or a reversal."""
        part = random.choice([{}, {"amount": random.randint(1, 30)}])
        match kind:
            case "capture":
                body = {"captures": random.choice(self.soak.recent_holds)} | part
            case "reverse":
                body = {"reverses": random.choice(self.soak.recent_transfers)} | part
            case _:
                body = self.movement(opened)
        return body | random.choice([{}, {"reference": self.reference()}])

    def hold(self, opened: Sequence[str] = ()) -> dict[str, Any]:
        soon = datetime.now(UTC) + timedelta(seconds=random.uniform(0.1, 3))
        reference = random.choice([{}, {"reference": self.reference()}])
        return self.movement(opened) | reference | random.choice([{}, {"expires_at": soon.isoformat()}])

    def movement(self, opened: Sequence[str]) -> dict[str, Any]:
        """What a transfer and a hold have in common: between two accounts, of which the target may be a new one."""
        source, target = (f"{self.soak.run_id}:{n}" for n in random.sample(range(ACCOUNTS), 2))
        target = random.choice([target, *opened])
        return {"from": source, "to": target, "amount": random.randint(1, 50), "currency": "EUR"}

    def reference(self) -> str:
        return f"{self.soak.run_id}:r{random.randrange(REFERENCES)}"

    def send(self, kind: str, method: str, target: str, body: Any = None) -> Any:
        """The JSON of the response. A status that no rule allows is a violation."""
        headers = {"Authorization": f"Bearer {self.soak.token}", "Content-Type": "application/json"}
        self.connection.request(method, f"/v1/{target}", None if body is None else json.dumps(body), headers)
        response = self.connection.getresponse()
        content = json.loads(response.read())
        self.soak.count(kind, response.status, content)
        if not is_allowed(response.status, target):
            self.soak.violations.append(f"{method} {target} returned {response.status}: {content}")
        return content


def is_allowed(status: int, target: str) -> bool:
    """Whether a rule allows this status of a response, or of the result of an item."""
    return status in (200, 201, 422) or (status == 404 and target.endswith(UNUSED))


def slug_of(body: dict[str, Any]) -> str:
    return str(body.get("type", "")).removeprefix("/problems/")


def soak_a_temporary_service(seconds: float) -> Soak:
    """Soak a service and a PostgreSQL that are started here, then check the database and the log too."""
    with postgres.running() as server, psycopg.connect(server.owner_url, autocommit=True) as owner:
        runner.up(owner, read_files())
        settings = {name: value for name, value in dotenv.dotenv_values(live.ROOT / ".env.example").items() if value}
        with live.serving(settings | {"DATABASE_URL": server.service_url}) as service:
            soak = Soak(service.url)
            soak.run(seconds)
        soak.violations.extend(f"{error}" for error in audit.run(owner).errors)
        (deadlocks,) = owner.execute("SELECT sum(deadlocks) FROM pg_stat_database").fetchone() or (None,)
    soak.violations.extend([f"{deadlocks} deadlocks"] if deadlocks else [])
    for line in service.lines:  # SQLSTATE class 23: two requests used one id, and the retry succeeded
        if line["event"] == "request.failed" or str(line.get("sqlstate", "23"))[:2] != "23":
            soak.violations.append(str(line))
    return soak


def main() -> int:
    seconds = float(os.environ.get("SECONDS", "120"))
    if url := os.environ.get("URL"):
        soak = Soak(url, token=os.environ.get("LEDGER_TOKEN", run.TOKEN))
        soak.run(seconds)
    else:
        soak = soak_a_temporary_service(seconds)
    for (kind, response), count in sorted(soak.responses.items()):
        print(f"{count:>9,}  {kind:9} {response}")
    total, transfers, violations = soak.responses.total(), len(soak.acknowledged), len(soak.violations)
    print(f"{total:>9,}  responses, {transfers:,} transfers acknowledged, {violations:,} violations")
    print(*soak.violations[:20], sep="\n")
    return 1 if soak.violations else 0


if __name__ == "__main__":
    sys.exit(main())
