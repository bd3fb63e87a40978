"""Section throughput: the most that PostgreSQL, simple programs, this service and its baseline do on this machine.

Within a round all cases run one after another, and the rounds follow each other. So a change of the machine's speed
during the run affects all cases alike.
"""

import contextlib
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import load
from bench.load import Load
from bench.measure import OPENING, Bench, Ledger, audit_seconds, measure, warm_up
from bench.processes import ROOT, Service, serving
from bench.results import Measurement

SECTION = "throughput"
TRANSFERS = 200_000  # at the start: each account has about 40 entries, so a page of 20 is full
ACCOUNTS = 10_000
CALLERS = 64  # connections of the service's callers
# Clients of pgbench, spread and hot: the highest rates on two cores, of 8, 16, 32 and 64. More wait for each other.
PGBENCH_CLIENTS = {False: 32, True: 8}
INTERACTIVE_CALLERS = 16  # processes, the best on two cores in the sum of both
BATCH_CALLERS = 4  # connections: batches of 1,000 that share accounts wait for each other, for at most 1 s
# The newest commit before group posting and gevent: "today" in the targets of docs/performance.md.
BASELINE = "87f065df"

SERVICE_CASES = {
    "one process, spread": (1, Load("spread", CALLERS)),
    "one process, hot": (1, Load("hot", CALLERS)),
    "two processes, spread": (2, Load("spread", CALLERS)),
    "two processes, hot": (2, Load("hot", CALLERS)),
    "one connection": (1, Load("spread", 1)),
    "reads": (1, Load("read", CALLERS)),
    "pages": (1, Load("page", CALLERS)),
    "batches of 100": (1, Load("batch", BATCH_CALLERS, items=100)),
    "batches of 1,000": (1, Load("batch", BATCH_CALLERS, items=1000)),
    "batches of 1,000 accounts": (1, Load(OPENING, BATCH_CALLERS, items=1000)),
}
SAME_CASES = ("one process, spread", "two processes, spread", "reads", "pages")
BASELINE_CASES = {case: SERVICE_CASES[case] for case in SAME_CASES}
BASELINE_CASES |= {"batches of 1,000": (1, Load("old_batch", BATCH_CALLERS, items=1000))}

Cases = dict[str, Callable[[], Measurement]]


def run(bench: Bench) -> None:
    """Measure all cases, in rounds."""
    with contextlib.ExitStack() as services:
        ledger = services.enter_context(bench.ledger(TRANSFERS, ACCOUNTS))
        peers = services.enter_context(bench.ledger(TRANSFERS, ACCOUNTS))
        cases = peer_cases(bench, peers)
        started = [services.enter_context(serving(ledger.service_url, bench.work)) for _ in range(2)]
        cases |= service_cases(bench, ledger, started, "service", SERVICE_CASES)
        if folder := baseline_folder(bench.work):
            old = [services.enter_context(serving(ledger.service_url, bench.work, folder)) for _ in range(2)]
            cases |= service_cases(bench, ledger, old, "baseline", BASELINE_CASES)
            started += old
        for service in started:
            warm_up(service)
        for _ in range(bench.rounds):
            for name, function in cases.items():
                bench.results.add(SECTION, name, function())
        audit_seconds(ledger)


def service_cases(
    bench: Bench, ledger: Ledger, services: list[Service], name: str, cases: dict[str, tuple[int, Load]]
) -> Cases:
    """These cases, each on the first or on both of the services."""
    found: Cases = {}
    for case, (processes, loaded) in cases.items():
        health = loaded.items > 1
        found[f"{name}: {case}"] = partial(measure, ledger, services[:processes], loaded, bench.seconds, health=health)
    return found


def peer_cases(bench: Bench, ledger: Ledger) -> Cases:
    """pgbench and bench.interactive, on a ledger of their own, because their numbers are not the journal's."""
    ledger.superuser.execute("CREATE SEQUENCE bench_number START 1000000000")  # above the numbers of numbered.sql
    ledger.superuser.execute("ALTER SEQUENCE bench_number OWNER TO ledger_owner")
    found: Cases = {}
    for script in ("one_statement", "numbered", "interactive"):
        for hot in (False, True):
            name = f"pgbench {script}: {'hot' if hot else 'spread'}"
            found[name] = partial(run_pgbench, bench, ledger, script, hot)
    for hot in (False, True):
        arguments = (ledger.owner_url, INTERACTIVE_CALLERS, bench.seconds, int(hot), ACCOUNTS)
        name = f"psycopg interactive: {'hot' if hot else 'spread'}"
        found[name] = partial(load.run_module, "interactive", bench.seconds, *arguments)
    return found


def run_pgbench(bench: Bench, ledger: Ledger, script: str, hot: bool) -> Measurement:
    binaries, url = bench.server.binaries, ledger.owner_url
    clients, seconds = PGBENCH_CLIENTS[hot], bench.seconds
    return {"rate": load.pgbench(binaries, url, script, hot=hot, clients=clients, seconds=seconds, accounts=ACCOUNTS)}


def baseline_folder(work: Path) -> Path | None:
    """The code of BASELINE, unpacked; None if this is not a git repository with that commit."""
    folder = work / "baseline"
    folder.mkdir()
    archive = subprocess.run(["git", "archive", BASELINE, "service", "sql"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        print(f"  without the baseline: {archive.stderr.decode().strip()}")
        return None
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder
