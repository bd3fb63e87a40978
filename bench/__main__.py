"""`make bench`: measure the service on this machine, and write bench/results/DATE.json and docs/performance.md.

Options are variables: ROUNDS (3), SECONDS (4, of each measurement), ONLY (some sections, separated by commas). With
fewer than three rounds it is a smoke test: the results go to .data/bench/, and the document stays as it is.
"""

import argparse
import contextlib
import datetime
import fcntl
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from bench import growth, latency, load, locked, machine, memory, overload, report, results, throughput
from bench.measure import Bench
from bench.processes import ROOT, BenchError, kill_leftovers, steal_and_total_ticks
from dev import postgres

SECTIONS = {module.SECTION: module.run for module in (throughput, latency, overload, locked, growth, memory)}
WORK = ROOT / ".data" / "bench"  # on a disk, unlike /tmp on some machines
DEFAULT_ROUNDS, DEFAULT_SECONDS = 3, 4.0


def main() -> int:
    """Run the sections; returns 1 if one has failed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS)
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    options = parser.parse_args()
    sections = options.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        check_programs()
        with contextlib.ExitStack() as stack:
            work = stack.enter_context(working_directory())
            machine.apply_settings(work / "postgres")
            server = stack.enter_context(postgres.running(work / "postgres"))
            path = (results.FOLDER if options.rounds >= DEFAULT_ROUNDS else WORK) / f"{datetime.date.today()}.json"
            bench = Bench(server, work, options.rounds, options.seconds, results.load(path))
            bench.results.machine = machine.describe(server, (work / "postgres").resolve())
            failed = [name for name in sections if not run_section(bench, name)]
    except (BenchError, postgres.PostgresError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"results: {path}", *(f"failed: {name}" for name in failed), sep="\n")
    if not bench.is_smoke_test:
        report.write(bench.results)
    return 1 if failed else 0


def check_programs() -> None:
    """Raise BenchError with what to install if a program is missing."""
    if sys.platform != "linux":
        raise BenchError("make bench needs Linux: it reads CPU time and memory from /proc.")
    missing = [] if shutil.which("wrk") else ["wrk"]
    missing += [] if load.find_pgbench(postgres.best(postgres.installations())) else ["pgbench"]
    if missing:
        packages = " ".join({"wrk": "wrk", "pgbench": "postgresql-contrib"}[name] for name in missing)
        raise BenchError(f"make bench needs {' and '.join(missing)} and installs nothing: apt install {packages}")


@contextlib.contextmanager
def working_directory() -> Iterator[Path]:
    """The directory of the database and the logs, empty at the start and removed at the end. One run at a time."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(f"another make bench uses {WORK}") from None
        work = WORK / "run"
        kill_leftovers(work)
        remove(work)
        work.mkdir()
        try:
            yield work
        finally:
            remove(work)


def remove(work: Path) -> None:
    """Remove the directory, and the data of the database, which root has elsewhere."""
    if (work / "postgres").is_symlink():
        shutil.rmtree((work / "postgres").resolve(), ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def run_section(bench: Bench, name: str) -> bool:
    """Run a section and record when, on which commit and under which conditions; False if it failed."""
    print(f"{name}:", flush=True)
    facts = {
        "commit": machine.commit(),
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rounds": bench.rounds,
        "seconds": bench.seconds,
        "load_before": os.getloadavg()[0],
    }
    bench.results.begin(name, facts)
    stolen, total = steal_and_total_ticks()
    started_at = time.monotonic()
    try:
        SECTIONS[name](bench)
    except Exception as error:  # the other sections go on
        traceback.print_exc()
        bench.results.set_fact(name, "error", f"{type(error).__name__}: {error}")
        return False
    stolen_after, total_after = steal_and_total_ticks()
    bench.results.set_fact(name, "steal_percent", round((stolen_after - stolen) / (total_after - total) * 100, 2))
    bench.results.set_fact(name, "took_seconds", round(time.monotonic() - started_at))
    return True


if __name__ == "__main__":
    sys.exit(main())
