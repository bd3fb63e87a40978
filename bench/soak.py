"""`make soak`: 64 callers ask for everything at once for SECONDS, and then every promise is looked after.

Without a URL it starts a service and a PostgreSQL of its own, and also reads the whole books, the server's count of
deadlocks and the service's log. Exit code 1 for any violation: an answer that no rule gives, such as 503, another
answer to the same request, or an acknowledged transfer that is not in the feed once, as it was acknowledged.
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
from typing import Any
from urllib.parse import urlsplit

import dotenv
import psycopg

from service.ledger import audit
from service.migrate import runner
from service.migrate.files import read_files
from tests import live, postgres

CALLERS = 64
ACCOUNTS = 40
RUN = f"soak-{int(time.time())}"
KINDS = "plain " * 5 + "batch hold hold capture release reverse change again read read read"
NEVER = "never"  # an id that nobody uses
LATER = ("status", "captured_by", "resolved_at")  # what may become of a hold
TOKEN = os.environ.get("LEDGER_TOKEN", live.TOKEN)
told: Counter[tuple[str, str]] = Counter()  # answers, by what was asked
counting = threading.Lock()
acknowledged: dict[str, Any] = {}  # transfers, as they were answered
placed: dict[str, Any] = {}  # holds, as they were answered
declined: set[str] = set()
violations: list[str] = []
holds, posted = deque([NEVER], maxlen=100), deque([NEVER], maxlen=100)  # the last ones, to be named by everybody


class Caller:
    """One kept-alive connection, and what it asked."""

    def __init__(self, url: str, number: int) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        self.number, self.count = number, 0
        self.puts: deque[tuple[str, str, Any, Any]] = deque(maxlen=50)

    def work(self, until: float) -> None:
        """Ask until then, and keep what must be true of it ever after."""
        while time.monotonic() < until:
            kind = random.choice(KINDS.split()) if self.puts else "plain"
            self.count += 1
            if kind == "again":
                method, target, body, before = random.choice(self.puts)
            else:
                (method, target, body), before = self.request(kind, f"{RUN}-{self.number}-{self.count}"), None
            try:
                answer = self.ask(kind, method, target, body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                violations.append(f"{kind}: {error!r}")
                self.connection.close()
                continue
            if before and before | {"request_id": ""} != answer | {"request_id": ""}:
                violations.append(f"{target} was answered with {before}, then with {answer}")
            if kind == "hold" and "amount" in answer:
                placed[answer["id"]] = answer
                holds.append(answer["id"])
            if kind in ("plain", "capture", "reverse"):
                note(target.partition("/")[2], answer)
                self.puts.append((method, target, body, answer))
            for item, result in zip(body["transfers"], answer["results"], strict=True) if "results" in answer else ():
                count("item", result["status"], result.get("problem", {}))
                note(item["id"], result.get("transfer") or result["problem"])
        self.connection.close()

    def request(self, kind: str, id: str) -> tuple[str, str, Any]:
        """Method, target and body."""
        account, hold, transfer = f"{RUN}:{random.randrange(ACCOUNTS)}", random.choice(holds), random.choice(posted)
        part = random.choice([{}, {"amount": random.randint(1, 30)}])
        moment = datetime.now(UTC) + timedelta(seconds=random.uniform(0.1, 3))
        past = (moment - timedelta(seconds=4)).isoformat().removesuffix("+00:00")
        capture, reversal = {"captures": hold} | part, {"reverses": transfer} | part
        some = [plain(), plain(), plain(), capture, reversal]
        items = [random.choice(some) | {"id": f"{id}-{n}"} for n in range(random.randint(1, 20))]
        pages = [f"accounts/{account}{view}" for view in ("", "/entries", "/changes", f"/balance?at={past}Z")]
        others = [f"accounts?prefix={RUN}", "transfers", f"transfers/{transfer}", f"holds/{hold}"]
        change = {"status": random.choice(["frozen", *["open"] * 9]), "min_balance": random.choice([None, 0])}
        requests: dict[str, tuple[str, str, Any]] = {
            "plain": ("PUT", f"transfers/{id}", plain()),
            "capture": ("PUT", f"transfers/{id}", capture),
            "reverse": ("PUT", f"transfers/{id}", reversal),
            "batch": ("POST", "transfers", {"atomic": random.random() < 0.3, "transfers": items}),
            "hold": ("PUT", f"holds/{id}", plain() | random.choice([{}, {"expires_at": moment.isoformat()}])),
            "release": ("DELETE", f"holds/{hold}", None),
            "change": ("PATCH", f"accounts/{account}", change),
            "read": ("GET", random.choice(pages + others), None),
        }
        return requests[kind]

    def ask(self, kind: str, method: str, target: str, body: Any = None) -> Any:
        """The answer's JSON; a status that no rule gives is a violation."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        self.connection.request(method, f"/v1/{target}", None if body is None else json.dumps(body), headers)
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        count(kind, response.status, answer)
        if response.status not in (200, 201, 422) and not (response.status == 404 and target.endswith(NEVER)):
            violations.append(f"{method} {target} answered {response.status}: {answer}")
        return answer


def plain() -> dict[str, Any]:
    source, target = random.sample(range(ACCOUNTS), 2)
    return {"from": f"{RUN}:{source}", "to": f"{RUN}:{target}", "amount": random.randint(1, 50), "currency": "EUR"}


def note(id: str, answer: dict[str, Any]) -> None:
    if "number" in answer:
        acknowledged[id] = answer
        posted.append(id)
    elif not slug(answer).endswith("not-found"):
        declined.add(id)


def count(kind: str, status: int, answer: dict[str, Any]) -> None:
    with counting:
        told[kind, f"{status} {slug(answer)}"] += 1


def slug(answer: dict[str, Any]) -> str:
    return str(answer.get("type", "")).removeprefix("/problems/")


def soak(url: str, seconds: float) -> None:
    """All callers for so long, and then a look at everything that was told."""
    callers = [Caller(url, number) for number in range(CALLERS)]
    for n in range(ACCOUNTS):
        callers[0].ask("open", "PUT", f"accounts/{RUN}:{n}", {"currency": "EUR", "min_balance": [0, None][n % 2]})
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=caller.work, args=[until]) for caller in callers]
    for step in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            step(thread)
    look(callers[0])


def look(caller: Caller) -> None:
    """Each acknowledged transfer stands in the feed once, and all is as it was told."""
    seen: Counter[str] = Counter()
    after = "0"
    while after:
        page = caller.ask("look", "GET", f"transfers?limit=500&after={after}")
        for row in (row for row in page["transfers"] if row["id"].startswith(RUN)):
            seen[row["id"]] += 1
            if acknowledged.get(row["id"]) != row:
                violations.append(f"{row['id']} was acknowledged as {acknowledged.get(row['id'])}, and is {row}")
        after = page["next"]
    violations.extend(f"{id} is {seen[id]} times in the feed" for id in acknowledged if seen[id] != 1)
    for id in declined:
        if seen[id] or caller.ask("look", "GET", f"transfers/{id}").get("status") != "declined":
            violations.append(f"{id} was declined, and is not")
    for id, hold in placed.items():
        if hold | dict.fromkeys(LATER) != caller.ask("look", "GET", f"holds/{id}") | dict.fromkeys(LATER):
            violations.append(f"{id} is not the hold that was placed")
    caller.connection.close()


def soak_our_own(seconds: float) -> None:
    """The same with a service and a PostgreSQL of our own, which can be asked more."""
    with postgres.running() as server, psycopg.connect(server.owner_url, autocommit=True) as owner:
        runner.up(owner, read_files())
        settings = {name: value for name, value in dotenv.dotenv_values(live.ROOT / ".env.example").items() if value}
        with live.serving(settings | {"DATABASE_URL": server.service_url}) as service:
            soak(service.url, seconds)
        violations.extend(f"{error}" for error in audit.run(owner).errors)
        (deadlocks,) = owner.execute("SELECT sum(deadlocks) FROM pg_stat_database").fetchone() or (None,)
    violations.extend([f"{deadlocks} deadlocks"] if deadlocks else [])
    for line in service.lines:  # class 23 are races for an id or against a hold's time, and the next try won
        if line["event"] == "request.failed" or str(line.get("sqlstate", "23"))[:2] != "23":
            violations.append(str(line))


if __name__ == "__main__":
    seconds = float(os.environ.get("SECONDS", "120"))
    soak(os.environ["URL"], seconds) if os.environ.get("URL") else soak_our_own(seconds)
    for (kind, answer), times in sorted(told.items()):
        print(f"{times:>9,}  {kind:9} {answer}")
    print(f"{told.total():>9,}  answers, {len(acknowledged):,} transfers acknowledged, {len(violations):,} violations")
    print(*violations[:20], sep="\n")
    sys.exit(1 if violations else 0)
