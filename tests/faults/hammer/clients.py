"""The clients: each sends commands and reads, and repeats a command with its id until it has a final result.

What a client sends depends on the seed and its number. It uses the replicas in turn, so that a repeat often goes to
another process than the first attempt.
"""

import http.client
import json
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dev.run import TOKEN
from tests.faults.hammer.history import (
    ACCOUNT,
    DECLINED,
    FEED,
    FEED_ROWS,
    HOLD,
    LOOKUP,
    OK,
    OPENING,
    REFUSED,
    RELEASE,
    TRANSFER,
    UNKNOWN,
    Attempt,
    History,
)

ACCOUNTS = 100
FLOORS = (0, None, -500, 0)  # min_balance of the accounts in turn
UNLIMITED = range(FLOORS.index(None), ACCOUNTS, len(FLOORS))  # the accounts without a floor
HTTP_TIMEOUT_SECONDS = 10.0  # longer than the service's deadline and the time for which it holds back a refusal
PAUSE_SECONDS = 0.25  # the mean pause before a repeat; the service asks for 1 s, but shorter pauses find more
BATCH_ITEMS = (40, 160)
EXPIRY_SECONDS = (1.0, 10.0)  # from a hold to its expiry: shorter than some faults, longer than others
CEILING = 200  # max_balance of some of the accounts that are opened during the run: a few transfers reach it
REFERENCES = [f"r{number}" for number in range(50)]  # each is that of many transfers of all clients
RECENT = 50  # ids that a client captures, releases, reverses, pays to or reads
KINDS = (
    ["plain"] * 4
    + ["batch"] * 3
    + ["hold"] * 2
    + ["capture", "release", "reverse", "open", "repeat", "account", "lookup", "feed"]
)
ITEMS = ["plain"] * 8 + ["hold", "capture", "release", "reverse", "open", "open with ceiling"]
ATOMIC_ITEMS = ["unlimited"] * 8 + ["unlimited hold", "open"]  # none of them is refused
ATOMIC_CHANCE, REFUSED_CHANCE = 0.25, 0.1  # of a batch to be atomic, and of an atomic batch to be refused
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
RESOURCES = {
    TRANSFER: ("PUT", "transfers"),
    HOLD: ("PUT", "holds"),
    RELEASE: ("DELETE", "holds"),
    OPENING: ("PUT", "accounts"),
}
MEMBERS = {TRANSFER: "transfer", HOLD: "hold", RELEASE: "release", OPENING: "account"}  # of an item of a batch
# A refused command leaves nothing behind. These are the refusals of the workload's own commands.
NOT_STORED = {"account-not-found", "hold-not-found", "transfer-not-found", "not-found", "batch-refused"}
OUTCOMES = {"not_applied": REFUSED, "unknown": UNKNOWN}

Part = tuple[str, str, Any]  # kind, id and body of what a request asks for


@dataclass(frozen=True)
class Command:
    """One request: what it asks for, and the kind and id of each of its attempts."""

    method: str
    path: str
    body: Any
    parts: Sequence[Part]
    batch: str = ""  # its id if it is an atomic batch


@dataclass(frozen=True)
class Reply:
    """A response, or the error of the connection with status 0."""

    status: int
    body: Any
    note: str = ""
    was_sent: bool = True


class Client:
    """Sends its requests one after the other, on one kept-alive connection to each replica."""

    def __init__(self, number: int, seed: int, ports: list[int], history: History) -> None:
        self.number = number
        self.random = random.Random(f"{seed}-{number}")  # for what it sends
        self.random_repeats = random.Random(f"{seed}-{number}-repeats")  # how many it uses depends on the responses
        self.history = history
        self.connections = [
            http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_TIMEOUT_SECONDS) for port in ports
        ]
        self.sent = 0  # commands, for their ids
        self.holds: deque[str] = deque(maxlen=RECENT)
        self.transfers: deque[str] = deque(maxlen=RECENT)
        self.accounts: deque[str] = deque(maxlen=RECENT)  # that it has opened
        self.commands: deque[Command] = deque(maxlen=RECENT)
        self.last_number = 0  # the highest number that it has seen
        self.errors: list[str] = []  # responses that no rule allows

    def work(self, stop: threading.Event, give_up: threading.Event) -> None:
        """Send until `stop`; then repeat the last command until it has a final result, or until `give_up`."""
        while not stop.is_set():
            self.settle(self.next_command(), give_up)
        for connection in self.connections:
            connection.close()

    def settle(self, command: Command, give_up: threading.Event) -> None:
        """Send the command until its response is neither missing, nor a 500 or a 503."""
        replica = self.random_repeats.randrange(len(self.connections))
        while not self.attempt(command, replica) and not give_up.is_set():
            replica = (replica + 1) % len(self.connections)
            give_up.wait(self.random_repeats.uniform(0, 2 * PAUSE_SECONDS))

    def attempt(self, command: Command, replica: int) -> bool:
        """Send the command once, record it, and return whether its result is final."""
        now = time.monotonic()
        attempts = [Attempt(kind, id, body, replica, now, batch=command.batch) for kind, id, body in command.parts]
        self.history.invoke(attempts)
        reply = self.send(command, replica)
        results = reply.body["results"] if reply.status == 200 and command.path == "batches" else None
        for number, attempt in enumerate(attempts):
            attempt.note = reply.note
            self.judge(attempt, reply, results[number] if results else None)
        self.history.complete(attempts)
        return reply.status not in (0, 500, 503)

    def send(self, command: Command, replica: int) -> Reply:
        """Send the request once. http.client would connect silently, so that a refused connection is not seen."""
        connection = self.connections[replica]
        was_sent = False
        try:
            if connection.sock is None:
                connection.connect()
            was_sent = True
            content = None if command.body is None else json.dumps(command.body)
            connection.request(command.method, f"/v1/{command.path}", content, HEADERS)
            response = connection.getresponse()
            body = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            return Reply(0, None, repr(error), was_sent)
        if response.status == 503 and not (response.headers["Retry-After"] and body.get("outcome") in OUTCOMES):
            self.errors.append(f"503 without Retry-After or outcome: {dict(response.headers)} {body}")
        return Reply(response.status, body)

    def judge(self, attempt: Attempt, reply: Reply, result: Any) -> None:
        """Set the outcome of the attempt from the response, or from its item of a batch."""
        status, body = reply.status, reply.body
        if result is not None:
            [status, body] = result.values()
        attempt.status, attempt.response = status, body
        slug = str((body or {}).get("type", "")).removeprefix("/problems/")
        if status in (200, 201):
            attempt.outcome = OK
            self.last_number = max(self.last_number, body.get("number") or 0)
        elif status == 0:
            attempt.outcome = UNKNOWN if reply.was_sent else REFUSED
        elif status == 503:
            attempt.outcome = OUTCOMES.get(body.get("outcome"), UNKNOWN)
        elif slug in NOT_STORED:
            attempt.outcome = REFUSED
        elif status == 422:
            attempt.outcome = DECLINED
        else:
            attempt.outcome = UNKNOWN
            self.errors.append(f"{attempt.kind} {attempt.id} returned {status}: {body}")

    def next_command(self) -> Command:
        """A new command or read, or in one of 16 cases an earlier command once more."""
        kind = self.random.choice(KINDS)
        if kind == "repeat" and self.commands:
            return self.random.choice(self.commands)
        self.sent += 1
        id = f"c{self.number}-{self.sent}"
        command = self.make(kind, id)
        if command.method != "GET":
            self.commands.append(command)
        return command

    def make(self, kind: str, id: str) -> Command:
        """The command of this kind."""
        match kind:
            case "batch":
                return self.make_batch(id)
            case "account":
                return Command("GET", f"accounts/{(account := self.any_account())}", None, [(ACCOUNT, account, None)])
            case "lookup" if self.transfers:
                transfer = self.random.choice(self.transfers)
                return Command("GET", f"transfers/{transfer}", None, [(LOOKUP, transfer, None)])
            case "feed":
                after = str(max(self.last_number - self.random.randrange(2 * FEED_ROWS), 0))
                return Command("GET", f"transfers?after={after}&limit={FEED_ROWS}", None, [(FEED, after, None)])
        return single(*self.make_part(kind, id, self.accounts))

    def make_batch(self, id: str) -> Command:
        """Items of all kinds. The items of an atomic batch are never refused, except the last one of some batches."""
        is_atomic = self.random.random() < ATOMIC_CHANCE
        opened: deque[str] = deque([f"{id}-0"]) if is_atomic else self.accounts
        kinds = self.random.choices(ATOMIC_ITEMS if is_atomic else ITEMS, k=self.random.randint(*BATCH_ITEMS))
        parts = [self.make_part(kind, f"{id}-{n}", opened) for n, kind in enumerate(["open", *kinds])]
        if is_atomic and self.random.random() < REFUSED_CHANCE:
            parts.append((TRANSFER, f"{id}-refused", {"captures": "unknown"}))
        return batch(id, parts, is_atomic=is_atomic)

    def make_part(self, kind: str, id: str, opened: Sequence[str]) -> Part:
        """One thing to write. Some of the transfers and holds are to the accounts `opened`."""
        match kind:
            case "open" | "open with ceiling":
                self.accounts.append(id)
                ceiling = CEILING if kind == "open with ceiling" else None
                return OPENING, id, {"currency": "EUR", "min_balance": 0, "max_balance": ceiling}
            case "hold":
                self.holds.append(id)
                return HOLD, id, self.movement(opened) | self.random.choice([{}, {}, self.expiry()])
            case "unlimited hold":
                self.holds.append(id)
                return HOLD, id, self.movement(opened, UNLIMITED)
            case "release" if self.holds:
                return RELEASE, self.random.choice(self.holds), None
            case "capture" if self.holds:
                body: dict[str, Any] = {"captures": self.random.choice(self.holds)}
            case "reverse" if self.transfers:
                body = {"reverses": self.random.choice(self.transfers), "amount": self.random.randint(1, 5)}
            case "unlimited":
                body = self.movement(opened, UNLIMITED)
            case _:
                body = self.movement(opened)
        self.transfers.append(id)
        return TRANSFER, id, body | self.random.choice([{}, {}, {"reference": self.random.choice(REFERENCES)}])

    def movement(self, opened: Sequence[str], sources: range = range(ACCOUNTS)) -> dict[str, Any]:
        """The body of a plain transfer or of a hold, from one of the sources."""
        source = self.random.choice(sources)
        target = f"a{(source + self.random.randrange(1, ACCOUNTS)) % ACCOUNTS}"
        if opened and self.random.random() < 0.1:
            target = self.random.choice(opened)
        return {"from": f"a{source}", "to": target, "amount": self.random.randint(1, 60), "currency": "EUR"}

    def expiry(self) -> dict[str, str]:
        soon = datetime.now(UTC) + timedelta(seconds=self.random.uniform(*EXPIRY_SECONDS))
        return {"expires_at": soon.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}

    def any_account(self) -> str:
        return self.random.choice([*self.accounts, *(f"a{number}" for number in range(ACCOUNTS))])


def single(kind: str, id: str, body: Any) -> Command:
    """A request for one id."""
    method, resource = RESOURCES[kind]
    return Command(method, f"{resource}/{id}", body, [(kind, id, body)])


def batch(id: str, parts: Sequence[Part], *, is_atomic: bool) -> Command:
    """A request for several ids."""
    items = [{MEMBERS[kind]: {"id": id_of_part, **(body or {})}} for kind, id_of_part, body in parts]
    return Command("POST", "batches", {"atomic": is_atomic, "items": items}, parts, id if is_atomic else "")


def open_accounts(client: Client) -> None:
    """Open the accounts of the workload. Raises AssertionError if they cannot be opened."""
    floors = [FLOORS[number % len(FLOORS)] for number in range(ACCOUNTS)]
    parts = [(OPENING, f"a{n}", {"currency": "EUR", "min_balance": floor}) for n, floor in enumerate(floors)]
    assert client.attempt(batch("accounts", parts, is_atomic=True), 0)
    assert not client.errors, client.errors
