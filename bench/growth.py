"""Section growth: rates, pages and sizes with up to ten million transfers and up to a million accounts."""

import time

from bench.load import Load, finish_wrk, start_wrk
from bench.measure import POSTINGS, Bench, Ledger, audit_seconds, measure
from bench.processes import serving
from bench.throughput import BATCH_CALLERS, CALLERS

SECTION = "growth"
SIZES = (  # transfers, accounts: first more transfers, then more accounts
    (10_000, 10_000),
    (1_000_000, 10_000),
    (10_000_000, 10_000),
    (1_000_000, 1_000),
    (1_000_000, 1_000_000),
)
SMOKE_SIZES = ((10_000, 10_000), (100_000, 1_000))
SETTLED = 1.02
SETTLE_STEP_SECONDS, SETTLE_LIMIT_SECONDS = 1.0, 60.0
PAGES_READ = "SELECT sum(blks_hit + blks_read) FROM pg_stat_database WHERE datname = current_database()"
WAL_WRITTEN = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"
TABLES = ("transfer", "account")


def run(bench: Bench) -> None:
    """Create a ledger of each size and measure it."""
    for transfers, accounts in SMOKE_SIZES if bench.is_smoke_test else SIZES:
        started_at = time.monotonic()
        with bench.ledger(transfers, accounts) as ledger:
            created_seconds = time.monotonic() - started_at
            sizes = {"created_seconds": created_seconds, "audit_seconds": audit_seconds(ledger), **read_sizes(ledger)}
            bench.results.add(SECTION, f"{transfers}/{accounts} size", sizes)
            settle(bench, ledger, loads(accounts)["batch"], transfers)
            for kind, loaded in loads(accounts).items():
                measure_kind(bench, ledger, f"{transfers}/{accounts} {kind}", loaded)


def loads(accounts: int) -> dict[str, Load]:
    return {
        "spread": Load("spread", CALLERS, accounts=accounts),
        "batch": Load("batch", BATCH_CALLERS, items=1000, accounts=accounts),
        "read": Load("read", CALLERS, accounts=accounts),
        "page": Load("page", CALLERS, accounts=accounts),
    }


def settle(bench: Bench, ledger: Ledger, batches: Load, transfers: int) -> None:
    """Post batches until the ledger is SETTLED larger, so that most pages have been changed since the checkpoint."""
    until = time.monotonic() + SETTLE_LIMIT_SECONDS
    with serving(ledger.service_url, bench.work) as service:
        while ledger.last_number() < transfers * SETTLED and time.monotonic() < until:
            finish_wrk(start_wrk([service.url], batches, SETTLE_STEP_SECONDS), SETTLE_STEP_SECONDS)


def measure_kind(bench: Bench, ledger: Ledger, case: str, loaded: Load) -> None:
    """Measure all rounds, then the pages and the WAL of one transfer or read.

    The service stops before the counters are read, because a session reports its last ones when it ends.
    """
    done = 0.0
    with serving(ledger.service_url, bench.work) as service:
        wal_before, pages_before, number_before = read_counters(ledger)
        for _ in range(bench.rounds):
            found = measure(ledger, [service], loaded, bench.seconds)
            bench.results.add(SECTION, case, found)
            done += found["requests"]
    wal, pages, number = read_counters(ledger)
    if loaded.kind in POSTINGS:
        done = number - number_before
    per_item = {"pages": (pages - pages_before) / done, "wal_bytes": (wal - wal_before) / done}
    bench.results.add(SECTION, f"{case} cost", per_item)


def read_counters(ledger: Ledger) -> tuple[int, int, int]:
    """Bytes of WAL and pages read so far, and the number of transfers."""
    return ledger.query_integer(WAL_WRITTEN), ledger.query_integer(PAGES_READ), ledger.last_number()


def read_sizes(ledger: Ledger) -> dict[str, float]:
    """Bytes of the tables without their indexes, and of each index."""
    sizes: dict[str, float] = {}
    for table in TABLES:
        rows = ledger.superuser.execute(
            """
            SELECT relname, pg_relation_size(oid)
            FROM pg_class
            WHERE oid = %(table)s::regclass
                OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %(table)s::regclass)
            """,
            {"table": table},
        ).fetchall()
        sizes |= {f"{name}_bytes": float(str(size)) for name, size in rows}
    return sizes
