"""`python -m tests.faults.hammer`: clients and faults for some minutes, then a comparison with the ledger.

The exit code is 1 if there is a violation, and 2 for an unknown fault. The seed is printed; the same seed repeats the
faults in their order, and what the clients send. A full run also fails if a replica recovers or responds too late, or
if too little was acknowledged, and it writes docs/reliability.md.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()  # clients, links and faults are greenlets: hundreds of threads would cost more than the service

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests.faults.hammer import report, results
from tests.faults.hammer.run import Options, Outcome, choose_faults, run

SECONDS = 600.0  # the full run
OUTAGE_SECONDS = 40.0  # longer than any back-off of the pool
RECOVERY_LIMIT_SECONDS = 3.0
RESPONSE_LIMIT_SECONDS = 6.0  # the service's deadline is 5 s; 1 s is for clients and service on the same two cores
LEAST_ACKNOWLEDGED = 200_000
SHOWN = 20  # violations that are printed


def main(arguments: list[str]) -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hammer")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", default="", help="names of faults, separated by commas")
    parser.add_argument("--outage", type=float, default=OUTAGE_SECONDS, help="seconds for which PostgreSQL is down")
    parser.add_argument("--broken", default="", help="a function of tests/support/broken_builds.py")
    parser.add_argument("--full", action="store_true", help="apply the limits, and write docs/reliability.md")
    options = parser.parse_args(arguments)
    try:
        names = choose_faults(options.only)
    except ValueError as error:
        parser.error(str(error))
    print(f"seed {options.seed}", flush=True)
    load_before = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="hammer-history-"))
    module = ("tests.faults.hammer.broken_service", options.broken) if options.broken else ("service",)
    of_run = Options(options.seconds, options.seed, names, options.outage, module)
    if options.full:
        of_run = replace(
            of_run,
            recovery_limit_seconds=RECOVERY_LIMIT_SECONDS,
            response_limit_seconds=RESPONSE_LIMIT_SECONDS,
            least_acknowledged=LEAST_ACKNOWLEDGED,
        )
    outcome = run(of_run, folder)
    show(outcome, folder)
    if options.full:
        results.save(outcome, load_before)
        report.write()
    return 1 if outcome.violations else 0


def show(outcome: Outcome, folder: Path) -> None:
    """Print the counts and the violations. Without violations, the history is deleted."""
    for name, count in outcome.counts().items():
        print(f"{count:>9,}  {name.replace('_', ' ')}")
    print(f"{len(outcome.violations):>9,}  violations", *sorted(Counter(v.kind for v in outcome.violations).items()))
    for violation in outcome.violations[:SHOWN]:
        print(f"{violation.kind}: {violation.text}")
    if outcome.violations:
        print(f"seed {outcome.options.seed}; the history is {folder / 'history.jsonl'}")
    else:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
