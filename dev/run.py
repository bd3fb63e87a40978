"""`make run` and `make migrate`: the service on a developer's machine, with the settings of .env.

    python -m dev.run                 apply pending migrations, serve, and print a curl command that moves money
    python -m dev.run MODULE ARG...   run another module of the service with the same settings

Environment variables override .env. Without DATABASE_URL, a PostgreSQL of its own is started; its data stays in .data/.
"""

import contextlib
import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path

import dotenv

from dev import postgres

ROOT = Path(__file__).parents[1]
TOKEN = "development-only-token"  # its SHA-256 is in .env.example
READY_SECONDS = 60


def main(arguments: list[str]) -> int:
    """Run the service, or the module of the arguments; returns its exit code, or 1 if there is no PostgreSQL."""
    settings = {**dotenv.dotenv_values(ROOT / ".env"), **os.environ}
    environment = {name: value for name, value in settings.items() if value}
    try:
        with contextlib.ExitStack() as stack:
            if "DATABASE_URL" not in environment:
                data = ROOT / ".data" / "postgres"
                running = postgres.attached(data) if arguments else None  # the server of a `make run` in progress
                server = running or stack.enter_context(postgres.running(data))
                environment |= {"DATABASE_URL": server.service_url, "MIGRATE_DATABASE_URL": server.owner_url}
            if arguments:
                return run(arguments, environment)
            if code := run(["service.migrate", "up"], environment):
                return code
            threading.Thread(target=announce, args=[environment], daemon=True).start()
            return run(["service"], environment)
    except (postgres.PostgresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def run(module: list[str], environment: dict[str, str]) -> int:
    return postgres.run([sys.executable, "-m", *module], environment)


def announce(environment: dict[str, str]) -> None:
    """When the service is ready, open two demo accounts and print a command that moves money between them."""
    url = f"http://127.0.0.1:{environment.get('PORT', '8080')}"
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/ready", timeout=1).close()
            break
        time.sleep(0.1)
    with contextlib.suppress(OSError):  # fails if CALLERS has another token, or if the accounts have other terms
        for account in ("world", "user:42"):
            opening = json.dumps({"currency": "EUR", "min_balance": None if account == "world" else 0}).encode()
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}/v1/accounts/{account}", opening, headers, method="PUT")
            urllib.request.urlopen(request, timeout=5).close()
    body = json.dumps({"from": "world", "to": "user:42", "amount": 1250, "currency": "EUR"})
    curl = (
        f"curl -X PUT {url}/v1/transfers/demo-{int(time.time())} -H 'Authorization: Bearer {TOKEN}'"
        f" -H 'Content-Type: application/json' -d '{body}'"
    )
    print(
        f"\nLedger is ready at {url}. This command moves money once, even if you run it again:\n\n{curl}\n", flush=True
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
