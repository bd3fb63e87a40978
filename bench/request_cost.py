"""What one request costs in the process of the service: `python -m bench.request_cost [--profile] [--only TEXT]`.

It calls the WSGI application in one thread, without gunicorn, on a new database. For each kind of request it prints
the CPU time of this process (the database is another process) and the elapsed time, in microseconds per request: the
medians of ROUNDS rounds. With --profile it prints where the CPU time goes, by package and by function, from samples.

    .venv/bin/python -m dev.postgres --data DIR -- .venv/bin/python -m bench.request_cost --profile
"""

import argparse
import contextlib
import io
import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import psycopg

from dev.run import TOKEN
from service import config, logs
from service.http.app import Application
from service.migrate import runner
from service.migrate.files import read_files
from service.server import build_application
from tests.support.ledger import DEVELOPMENT

ROUNDS = 9  # other processes disturb single rounds
REQUESTS, BATCHES = 300, 4  # of one round
PROFILED_ROUNDS = 20
SAMPLE_SECONDS = 0.001
TOP_PACKAGES, TOP_FUNCTIONS = 12, 25
ENTRIES = 20  # rows of a page
BATCH = 1000  # items of a batch, the most that the contract allows
ACCOUNTS = 2 * BATCH
ACCOUNT = {"currency": "EUR", "min_balance": None}
POST_TRANSFERS = f"POST /v1/batches ({BATCH} transfers)"

STANDARD_LIBRARY = f"{os.path.dirname(os.__file__)}/"

Environ = dict[str, Any]


def main() -> None:
    """Create the ledger, then measure each kind of request."""
    parser = argparse.ArgumentParser(description="What one request costs.")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only the requests whose name contains TEXT")
    options = parser.parse_args()
    with psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner:
        runner.up(owner, read_files())
    application = build_application(config.load({**os.environ, "ENVIRONMENT": "development", "CALLERS": DEVELOPMENT}))
    with open(os.devnull, "w", encoding="utf-8") as file:  # log lines are made and written, but not kept
        logs.configure(file=file)
        measure_all(application, options.only, options.profile)
    application.dependencies.database.close()


def measure_all(application: Application, only: str, profile: bool) -> None:
    """Fill the ledger, then measure the kinds of requests whose name contains `only`."""
    kinds = kinds_of_requests()
    fill(application, kinds)
    print(f"{'request':36}{'CPU us':>10}{'elapsed us':>12}")
    for name, prepare in kinds.items():
        if only in name:
            requests = BATCHES if name.startswith("POST") else REQUESTS
            print_cost(application, name, prepare, requests)
            if profile:
                print_profile(application, prepare, requests)


def kinds_of_requests() -> dict[str, Callable[[], Environ]]:
    """A function for each kind of request, which returns a new request as gunicorn passes it to the application."""
    run = f"r{os.getpid()}-{time.time_ns()}"  # new ids in each run
    numbers = count()
    page = f"limit={ENTRIES}"

    def put() -> Environ:
        n = next(numbers)
        return environ("PUT", f"/v1/transfers/{run}-{n}", transfer(n))

    def post() -> Environ:
        items = [{"transfer": {"id": f"{run}-{n}", **transfer(n)}} for n in (next(numbers) for _ in range(BATCH))]
        return environ("POST", "/v1/batches", {"atomic": False, "items": items})

    def open_accounts() -> Environ:
        items = [{"account": {"id": f"{run}-{next(numbers)}", **ACCOUNT}} for _ in range(BATCH)]
        return environ("POST", "/v1/batches", {"atomic": False, "items": items})

    return {
        "GET /health": lambda: environ("GET", "/health"),
        "PUT /v1/transfers/{id}": put,
        "GET /v1/accounts/{id}": lambda: environ("GET", "/v1/accounts/a7"),
        f"GET /v1/accounts/{{id}}/entries ({ENTRIES})": lambda: environ("GET", f"/v1/accounts/a7/entries?{page}"),
        f"GET /v1/transfers ({ENTRIES})": lambda: environ("GET", f"/v1/transfers?{page}"),
        POST_TRANSFERS: post,
        f"POST /v1/batches ({BATCH} accounts)": open_accounts,
    }


def fill(application: Application, kinds: dict[str, Callable[[], Environ]]) -> None:
    """Open the accounts, and post enough transfers for a page of each of them."""
    for first in range(0, ACCOUNTS, BATCH):
        items = [{"account": {"id": f"a{n}", **ACCOUNT}} for n in range(first, first + BATCH)]
        call(application, environ("POST", "/v1/batches", {"atomic": False, "items": items}))
    for _ in range(ENTRIES * ACCOUNTS // BATCH):
        call(application, kinds[POST_TRANSFERS]())


def transfer(n: int) -> dict[str, Any]:
    return {"from": f"a{n % ACCOUNTS}", "to": f"a{(n * 7 + 1) % ACCOUNTS}", "amount": 1 + n % 100, "currency": "EUR"}


def environ(method: str, path: str, body: Any = None) -> Environ:
    """A request as gunicorn passes it."""
    content = b"" if body is None else json.dumps(body).encode()
    return {
        "REQUEST_METHOD": method,
        "RAW_URI": path,
        "QUERY_STRING": path.partition("?")[2],
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "ledger.test",
        "HTTP_AUTHORIZATION": f"Bearer {TOKEN}",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.input": io.BytesIO(content),
    }


def call(application: Application, request: Environ) -> None:
    with contextlib.closing(application(request, check_status)) as parts:  # closing frees the place of the request
        list(parts)


def check_status(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
    if not status.startswith("20"):
        raise AssertionError(f"the request failed: {status}")


def print_cost(application: Application, name: str, prepare: Callable[[], Environ], requests: int) -> None:
    """Print the medians of the rounds."""
    cpu_times, times = [], []
    for _ in range(ROUNDS):
        prepared = [prepare() for _ in range(requests)]
        cpu, elapsed = time.process_time(), time.monotonic()
        for request in prepared:
            call(application, request)
        cpu_times.append((time.process_time() - cpu) * 1e6 / requests)
        times.append((time.monotonic() - elapsed) * 1e6 / requests)
    print(f"{name:36}{statistics.median(cpu_times):>10,.0f}{statistics.median(times):>12,.0f}", flush=True)


def print_profile(application: Application, prepare: Callable[[], Environ], requests: int) -> None:
    """Print where the CPU time of a request goes: a signal interrupts this process SAMPLE_SECONDS of CPU time apart."""
    by_package: Counter[str] = Counter()
    by_function: Counter[str] = Counter()

    def sample(number: int, frame: FrameType | None) -> None:
        by_package[package(frame)] += 1
        while frame and "/service/" not in frame.f_code.co_filename:
            frame = frame.f_back
        by_function[f"{package(frame)} {frame.f_code.co_qualname}" if frame else "other"] += 1

    signal.signal(signal.SIGPROF, sample)
    cpu = 0.0
    for _ in range(PROFILED_ROUNDS):
        prepared = [prepare() for _ in range(requests)]
        started_at = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
        for request in prepared:
            call(application, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        cpu += time.process_time() - started_at
    microseconds = cpu * 1e6 / (requests * PROFILED_ROUNDS) / by_package.total()
    print(f"    {by_package.total()} samples. Where the CPU is:")
    for name, samples in by_package.most_common(TOP_PACKAGES):
        print(f"    {samples * microseconds:>9,.1f} us  {name}")
    print("    The function of the service that runs, with all that it calls in other packages:")
    for name, samples in by_function.most_common(TOP_FUNCTIONS):
        print(f"    {samples * microseconds:>9,.1f} us  {name}")


def package(frame: FrameType | None) -> str:
    """A module of the service, another package, or a module of the standard library. C code counts to its caller."""
    path = frame.f_code.co_filename if frame else "other"
    for folder in ("/service/", "site-packages/", STANDARD_LIBRARY):
        if folder in path:
            path = path.partition(folder)[2]
            return f"service/{path}" if folder == "/service/" else path.partition("/")[0]
    return path


if __name__ == "__main__":
    main()
