"""`make soak`: 64 callers send requests of all kinds for SECONDS; then every response is compared with the ledger.

Without a URL it starts a service and a PostgreSQL, and then also audits the ledger, counts deadlocks and reads the
service's log. The exit code is 1 if there is a violation: a response that no rule allows, such as 503; two different
responses to the same request; or an acknowledged transfer that is not in the feed exactly once as it was acknowledged.
"""

import http.client
import json
import os
import random
import sys
import threading
import time
from collections import Counter, deque
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
KINDS = "plain " * 5 + "batch hold hold capture release reverse change repeat read read read"
UNUSED = "unused"  # an id that no request creates
CHANGEABLE = ("status", "captured_by", "resolved_at")  # members of a hold that may change after it was placed

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
        self.declined: set[str] = set()
        self.violations: list[str] = []
        self.recent_holds, self.recent_transfers = deque([UNUSED], maxlen=100), deque([UNUSED], maxlen=100)
        self._counting = threading.Lock()
        self.callers = [Caller(self, number) for number in range(callers)]

    def run(self, seconds: float) -> None:
        """Let all callers work for that time, then check."""
        for n in range(ACCOUNTS):
            members = {"currency": "EUR", "min_balance": [0, None][n % 2]}
            self.callers[0].send("open", "PUT", f"accounts/{self.run_id}:{n}", members)
        until = time.monotonic() + seconds
        calls = [Call(partial(caller.work, until)) for caller in self.callers]
        time.sleep(seconds)
        for call in calls:
            call.result()
        self.check()

    def check(self) -> None:
        """Compare the feed, the declined transfers and the holds with what was returned before."""
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
        for id, hold in self.placed.items():
            if hold | dict.fromkeys(CHANGEABLE) != reader.send("check", "GET", f"holds/{id}") | dict.fromkeys(
                CHANGEABLE
            ):
                self.violations.append(f"{id} is not the hold that was placed")
        reader.connection.close()

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
            self.soak.placed[response["id"]] = response
            self.soak.recent_holds.append(response["id"])
        if kind in ("plain", "capture", "reverse"):
            self.soak.record(id, response)
            self.puts.append(((method, target, body), response))
        for item, result in zip(body["transfers"], response["results"], strict=True) if "results" in response else ():
            self.soak.count("item", result["status"], result.get("problem", {}))
            self.soak.record(item["id"], result.get("transfer") or result["problem"])

    def make_request(self, kind: str, id: str) -> Request:
        account = f"{self.soak.run_id}:{random.randrange(ACCOUNTS)}"
        hold, transfer = random.choice(self.soak.recent_holds), random.choice(self.soak.recent_transfers)
        part = random.choice([{}, {"amount": random.randint(1, 30)}])
        soon = datetime.now(UTC) + timedelta(seconds=random.uniform(0.1, 3))
        past = (soon - timedelta(seconds=4)).isoformat().removesuffix("+00:00")
        capture, reversal = {"captures": hold} | part, {"reverses": transfer} | part
        bodies = [self.plain(), self.plain(), self.plain(), capture, reversal]
        items = [random.choice(bodies) | {"id": f"{id}-{n}"} for n in range(random.randint(1, 20))]
        reads = [f"accounts/{account}{view}" for view in ("", "/entries", "/changes", f"/balance?at={past}Z")]
        reads += [f"accounts?prefix={self.soak.run_id}", "transfers", f"transfers/{transfer}", f"holds/{hold}"]
        change = {"status": random.choice(["frozen", *["open"] * 9]), "min_balance": random.choice([None, 0])}
        requests: dict[str, Request] = {
            "plain": ("PUT", f"transfers/{id}", self.plain()),
            "capture": ("PUT", f"transfers/{id}", capture),
            "reverse": ("PUT", f"transfers/{id}", reversal),
            "batch": ("POST", "transfers", {"atomic": random.random() < 0.3, "transfers": items}),
            "hold": ("PUT", f"holds/{id}", self.plain() | random.choice([{}, {"expires_at": soon.isoformat()}])),
            "release": ("DELETE", f"holds/{hold}", None),
            "change": ("PATCH", f"accounts/{account}", change),
            "read": ("GET", random.choice(reads), None),
        }
        return requests[kind]

    def plain(self) -> dict[str, Any]:
        """A transfer or a hold between two accounts."""
        source, target = (f"{self.soak.run_id}:{n}" for n in random.sample(range(ACCOUNTS), 2))
        return {"from": source, "to": target, "amount": random.randint(1, 50), "currency": "EUR"}

    def send(self, kind: str, method: str, target: str, body: Any = None) -> Any:
        """The JSON of the response. A status that no rule allows is a violation."""
        headers = {"Authorization": f"Bearer {self.soak.token}", "Content-Type": "application/json"}
        self.connection.request(method, f"/v1/{target}", None if body is None else json.dumps(body), headers)
        response = self.connection.getresponse()
        content = json.loads(response.read())
        self.soak.count(kind, response.status, content)
        if response.status not in (200, 201, 422) and not (response.status == 404 and target.endswith(UNUSED)):
            self.soak.violations.append(f"{method} {target} returned {response.status}: {content}")
        return content


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
