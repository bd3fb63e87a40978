"""Follow the feed: `LEDGER_URL=… LEDGER_TOKEN=… python examples/follow.py FILE`.

Prints each posted transfer as one line of JSON, in the order of the numbers and at least once. FILE has the number of
the last transfer that was printed. It is written after the lines, so if the process is killed in between, the next one
prints some transfers again: a consumer must ignore numbers that it knows. Without FILE it starts at the first transfer.
If stdout is a pipe and the consumer ends, the lines in the pipe are lost: write the consumer's last number to FILE.

SIGTERM and SIGINT end it after the page or the wait in progress. If the ledger is unavailable, it tries again. If the
ledger refuses the request, for example because of the token, it ends with exit code 1. After a restore or a failover of
the ledger, compare the number in FILE with the last number of the ledger (docs/scaling.md, "What a response proves").
"""

import http.client
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

POLL_SECONDS = 1.0  # wait at the end of the feed, and before a retry
RESPONSE_SECONDS = 10.0  # wait for a response: twice request_deadline_seconds of the ledger
PAGE_ROWS = 500  # page_max of the ledger


def main() -> None:
    """Print pages until a signal."""
    file = Path(sys.argv[1])
    number = int(file.read_text()) if file.exists() else 0
    signals: list[int] = []
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda received, frame: signals.append(received))
    while not signals:
        transfers, wait_seconds = read_page(number)
        if transfers:
            deliver(transfers)
            number = transfers[-1]["number"]
            save(file, number)
        else:
            time.sleep(wait_seconds)


def read_page(after: int) -> tuple[list[Any], float]:
    """The next transfers. If there are none, or the ledger is unavailable, also the seconds to wait."""
    target = f"{os.environ['LEDGER_URL']}/v1/transfers?after={after}&limit={PAGE_ROWS}"
    request = urllib.request.Request(target, headers={"Authorization": f"Bearer {os.environ['LEDGER_TOKEN']}"})
    try:
        with urllib.request.urlopen(request, timeout=RESPONSE_SECONDS) as response:
            return json.loads(response.read())["transfers"], POLL_SECONDS
    except urllib.error.HTTPError as error:
        with error:
            if error.code < 500:
                sys.exit(f"{error} {error.read()[:200]!r}")
            retry_after = error.headers.get("Retry-After", "")
        print(error, file=sys.stderr)
        return [], max(POLL_SECONDS, float(retry_after) if retry_after.isdecimal() else 0)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not JSON, such as a gateway's page
        print(error, file=sys.stderr)
        return [], POLL_SECONDS


def deliver(transfers: list[Any]) -> None:
    """Print the transfers. For a broker, send them here, and return when the broker has confirmed all of them.

    If stdout is a file, a crash of the machine can lose lines although their number is saved. A broker that confirms
    only what it has stored does not lose them.
    """
    for transfer in transfers:
        print(json.dumps(transfer))
    sys.stdout.flush()


def save(file: Path, number: int) -> None:
    """Write the number. After a crash of the machine the file has this number, or is as before, which is safe too."""
    temporary = file.with_name(f"{file.name}.new")
    with temporary.open("w") as writing:
        writing.write(f"{number}\n")
        writing.flush()
        os.fsync(writing.fileno())
    temporary.replace(file)


if __name__ == "__main__":
    main()
