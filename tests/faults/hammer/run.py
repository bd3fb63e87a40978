"""One run: clients work, faults happen one after the other, and at the end everything is compared."""

import json
import random
import threading
import time
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from service.ledger import audit
from tests.faults.hammer import checker, ledger, lists, nemesis, system
from tests.faults.hammer.checker import Violation
from tests.faults.hammer.clients import Client, open_accounts, single
from tests.faults.hammer.history import DECLINED, OK, REFUSED, TRANSFER, UNKNOWN, WRITES, Attempt, History
from tests.faults.hammer.ledger import Lists
from tests.faults.hammer.nemesis import CONTROL, FAULTS, Stage
from tests.faults.hammer.system import System
from tests.support.threads import Call
from tests.support.waiting import LIMIT_SECONDS

CLIENTS = 16
PROBE_PAUSE_SECONDS = 0.02  # between two attempts to post after a fault
LATER_OUTAGE_SECONDS = 3.0  # only the first outage of a run is long
QUIET_SECONDS = 0.3  # between the recovery from a fault and the next fault
STOP_THE_SERVICE = {"service-stopped"}  # a process that does not run cannot keep a deadline
SETTLE_SECONDS = 25.0  # at the end, for commands without a final result; less than LIMIT_SECONDS


@dataclass(frozen=True)
class Options:
    """What a run does. The same seed gives the same faults in the same order, and the same clients."""

    seconds: float
    seed: int
    names: list[str]
    outage_seconds: float
    module: tuple[str, ...] = ("service",)
    recovery_limit_seconds: float = float("inf")
    response_limit_seconds: float = float("inf")
    least_acknowledged: int = 0


@dataclass
class Occurrence:
    """One fault of the run, and for each replica the time from its end to the first acknowledged write."""

    name: str
    began: float
    ended: float = 0.0
    recovery_seconds: list[float] = field(default_factory=list)
    slowest_seconds: float = 0.0  # of the responses to requests that were sent during the fault


@dataclass
class Outcome:
    """What a run found."""

    options: Options
    seconds: float
    attempts: list[Attempt]
    occurrences: list[Occurrence]
    violations: list[Violation]
    server_version: str = ""

    def counts(self) -> dict[str, int]:
        """Commands and attempts by what became of them. A command is counted once, however often it was repeated."""
        writes = [attempt for attempt in self.attempts if attempt.kind in WRITES]
        final = {(attempt.kind, attempt.id): attempt.outcome for attempt in writes if attempt.outcome in (OK, DECLINED)}
        unknown = {(attempt.kind, attempt.id) for attempt in writes if attempt.outcome == UNKNOWN}
        last = {(attempt.kind, attempt.id): attempt.outcome for attempt in writes}
        outcomes = Counter(final.values())
        return {
            "acknowledged": len(final),
            "applied": outcomes[OK],
            "declined": outcomes[DECLINED],
            "transfers": sum(kind == TRANSFER and outcome == OK for (kind, _), outcome in final.items()),
            "unknown_at_first": len(unknown),
            "unknown_at_the_end": sum(outcome == UNKNOWN for outcome in last.values()),
            "attempts": len(writes),
            "attempts_refused": sum(attempt.outcome == REFUSED for attempt in writes),
            "requests": len({attempt.invoked for attempt in writes}),
            "reads": sum(attempt.kind not in WRITES and attempt.outcome == OK for attempt in self.attempts),
            "faults": sum(occurrence.name != CONTROL for occurrence in self.occurrences),
        }

    def of_kind(self, *kinds: str) -> int:
        return sum(violation.kind in kinds for violation in self.violations)


def run(options: Options, folder: Path) -> Outcome:
    """Start the system, let clients and faults work, and check. The history is written to the folder."""
    history = History(folder / "history.jsonl")
    started = time.monotonic()
    with system.running(options.module) as running:
        ports = [replica.to_service.port for replica in running.replicas]
        clients = [Client(number, options.seed, ports, history) for number in range(CLIENTS)]
        probers = [Client(CLIENTS + number, options.seed, [port], history) for number, port in enumerate(ports)]
        open_accounts(clients[0])
        stop, give_up = threading.Event(), threading.Event()
        calls = [Call(partial(client.work, stop, give_up)) for client in clients]
        stage = Stage(running, history, random.Random(), options.outage_seconds)
        try:
            occurrences = inject_faults(stage, options, probers)
        finally:
            stop.set()
            timer = threading.Timer(SETTLE_SECONDS, give_up.set)
            timer.start()
            for call in calls:
                call.result()
            timer.cancel()
        seconds = time.monotonic() - started
        violations = compare(running, history, lists.read(clients[0]))
        version = read_version(running)
    history.close()
    violations += [Violation("response", error) for client in [*clients, *probers] for error in client.errors]
    outcome = Outcome(options, seconds, history.attempts, occurrences, violations, version)
    measure_responses(outcome)
    outcome.violations += find_missed_limits(outcome)
    return outcome


def inject_faults(stage: Stage, options: Options, probers: list[Client]) -> list[Occurrence]:
    """All faults in a random order, again and again until the time is over, but each at least once.

    Each fault has random numbers of its own, because how many it uses depends on the time.
    """
    order = random.Random(options.seed)
    until = time.monotonic() + options.seconds
    occurrences: list[Occurrence] = []
    while not occurrences or time.monotonic() < until:
        for name in order.sample(options.names, len(options.names)):
            if len(occurrences) >= len(options.names) and time.monotonic() > until:
                break
            if name in {occurrence.name for occurrence in occurrences}:
                stage = replace(stage, outage_seconds=LATER_OUTAGE_SECONDS)
            stage = replace(stage, random=random.Random(f"{options.seed}-{len(occurrences)}"))
            occurrences.append(inject(name, stage, probers))
            time.sleep(QUIET_SECONDS)
    return occurrences


def inject(name: str, stage: Stage, probers: list[Client]) -> Occurrence:
    """Inject one fault, remove it, and measure the recovery of each replica."""
    fault = FAULTS[name]
    occurrence = Occurrence(name, time.monotonic())
    with fault.inject(stage):
        time.sleep(stage.outage_seconds if fault.seconds is None else fault.seconds)
    occurrence.ended = time.monotonic()
    calls = [Call(partial(recover, client)) for client in probers]
    occurrence.recovery_seconds = [call.result() - occurrence.ended for call in calls]
    recovery = ", ".join(f"{seconds:.2f} s" for seconds in occurrence.recovery_seconds)
    print(f"{name:24} {occurrence.ended - occurrence.began:6.2f} s, recovery {recovery}", flush=True)
    return occurrence


def recover(client: Client) -> float:
    """Send a new transfer until it is acknowledged, at most for LIMIT_SECONDS; the time at the end."""
    client.sent += 1
    id = f"c{client.number}-{client.sent}"
    body = {"from": "a1", "to": "a5", "amount": 1, "currency": "EUR"}  # a1 has no floor
    command = single(TRANSFER, id, body)
    until = time.monotonic() + LIMIT_SECONDS
    while not client.attempt(command, 0) and time.monotonic() < until:
        time.sleep(PROBE_PAUSE_SECONDS)
    return time.monotonic()


def compare(running: System, history: History, listed: Lists) -> list[Violation]:
    """Check the history against the ledger, audit the ledger, and read the logs of the service."""
    with psycopg.connect(running.database.server.owner_url, autocommit=True) as owner:
        violations = checker.check(history.attempts, ledger.read(owner, listed))
        violations += [Violation("audit", str(error)) for error in audit.run(owner).errors]
    for replica in running.replicas:
        violations += [Violation("log", str(line)) for line in find_failures(replica.log)]
    return violations


def find_failures(log: Path) -> list[dict[str, Any]]:
    """The lines about requests that ended with 500. A line may be cut where the process was killed."""
    found = []
    for text in log.read_text("utf-8", "replace").splitlines():
        if text.startswith('{"') and text.endswith("}"):
            line = json.loads(text)
            if line.get("event") == "request.failed" or line.get("status") == 500:
                found.append(line)
    return found


def measure_responses(outcome: Outcome) -> None:
    """Set the time of the slowest response during each fault. Requests without a response have none."""
    begins = [occurrence.began for occurrence in outcome.occurrences]
    for attempt in outcome.attempts:
        position = bisect_right(begins, attempt.invoked) - 1
        if position >= 0 and attempt.status and attempt.invoked < outcome.occurrences[position].ended:
            occurrence = outcome.occurrences[position]
            occurrence.slowest_seconds = max(occurrence.slowest_seconds, attempt.returned - attempt.invoked)


def find_missed_limits(outcome: Outcome) -> list[Violation]:
    """The faults with a slow recovery or a slow response, and a run that acknowledged too little.

    The limit of the recovery is added to the longest time of a write without a fault, which depends on the machine.
    """
    options, found = outcome.options, []
    usual = max((max(each.recovery_seconds) for each in outcome.occurrences if each.name == CONTROL), default=0.0)
    for occurrence in outcome.occurrences:
        recovery = max(occurrence.recovery_seconds)
        if recovery > min(usual + options.recovery_limit_seconds, LIMIT_SECONDS):
            found.append(Violation("recovery", f"{occurrence.name}: a replica needed {recovery:.2f} s"))
        if occurrence.slowest_seconds > options.response_limit_seconds and occurrence.name not in STOP_THE_SERVICE:
            found.append(
                Violation("response", f"{occurrence.name}: a response took {occurrence.slowest_seconds:.2f} s")
            )
    acknowledged = outcome.counts()["acknowledged"]
    if acknowledged < options.least_acknowledged:
        found.append(Violation("too few", f"{acknowledged} acknowledged, at least {options.least_acknowledged} wanted"))
    return found


def read_version(running: System) -> str:
    with running.database.connection() as connection:
        return connection.info.parameter_status("server_version") or ""


def choose_faults(only: str) -> list[str]:
    """The names in ONLY, by default all. Says which ones this user cannot inject."""
    names = [name for name in only.split(",") if name] or list(FAULTS)
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; the faults are {', '.join(FAULTS)}")
    chosen, missing = nemesis.available(names)
    for name in missing:
        print(f"{name:24} is left out: only root can mount a small file system")
    return chosen
