"""`python -m tests.support.broken_service FAULT...`: the service as a process, with faults.

Name resolution fails. While the file HANG_FILE of the environment exists, it hangs, as with a name server that does not
respond, and makes a file with the suffix `.entered`.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import _socket
import os
import socket
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any
from unittest import mock

import gevent.socket
from gevent.monkey import get_original

from service import __main__ as start
from service import log_writer, server, worker
from service.ledger import transfers
from service.migrate import history
from service.session import Statement

CUT_SECONDS = 4  # of `cut_soon`: longer than thousands of clients need to connect
UNLIMITED_SECONDS = 3600
SEND_BUFFER_BYTES = 65_536


def resolve_while_others_wait() -> None:
    """Resolve names as libpq does: without gevent."""
    socket.getaddrinfo = _socket.getaddrinfo  # type: ignore[assignment]


def log_while_others_wait() -> None:
    """Write each log line where it is made."""
    log_writer.install = lambda: None


def finish_requests_within_a_second() -> None:
    """Shorten gunicorn's graceful_timeout. This is no fault."""
    settings = server.gunicorn_settings
    server.gunicorn_settings = lambda config: settings(config) | {"graceful_timeout": 1}


def kill_the_worker_at_its_own_limit() -> None:
    """Leave the worker no time to cut the requests in progress."""
    server.STOP_RESERVE_SECONDS = 0


def stay_unready() -> None:
    """Serve, but return 503 on /ready: the check reads a schema version that is too old."""
    read = history.read_schema_state
    history.read_schema_state = lambda connection: read(connection)._replace(version=0)


def keep_few_lines() -> None:
    """Fill the queue of the log soon. This is no fault."""
    log_writer.MAX_LINES = 100


def cut_soon() -> None:
    """Cut slow clients after CUT_SECONDS, and idle ones. This is no fault."""
    worker.REQUEST_READ_SECONDS = worker.RESPONSE_SEND_SECONDS = CUT_SECONDS
    settings = server.gunicorn_settings
    server.gunicorn_settings = lambda config: settings(config) | {"keepalive": CUT_SECONDS}


def use_small_buffers() -> None:
    """Keep SEND_BUFFER_BYTES of a response in the operating system, as between two machines. This is no fault."""

    class SmallSocket(worker.ClientSocket):
        def __init__(self, client: gevent.socket.socket, idle_seconds: float) -> None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            super().__init__(client, idle_seconds)

    mock.patch.object(worker, "ClientSocket", SmallSocket).start()


def never_cut() -> None:
    """Serve clients without a time limit."""
    worker.REQUEST_READ_SECONDS = worker.RESPONSE_SEND_SECONDS = UNLIMITED_SECONDS
    settings = server.gunicorn_settings
    server.gunicorn_settings = lambda config: settings(config) | {"keepalive": UNLIMITED_SECONDS}


def forget_the_old_release() -> None:
    """Do not add the reversals of a release that writes no reversed_total."""
    added = "sum(amount)"
    sum_reversals = transfers.sum_reversals

    def sum_totals(ids: Collection[str]) -> Statement:
        statement = sum_reversals(ids)
        assert added in str(statement.text)
        return statement._replace(text=str(statement.text).replace(added, "sum(NULL::bigint)"))

    transfers.sum_reversals = sum_totals


def main() -> int:
    """Run the service with the faults of the arguments."""
    _socket.getaddrinfo = _hang
    for fault in sys.argv[1:]:
        globals()[fault]()
    del sys.argv[1:]
    return start.main()


def _hang(*arguments: Any, **options: Any) -> Any:
    hang = Path(os.environ.get("HANG_FILE", "no-file"))
    while hang.exists():
        hang.with_suffix(".entered").touch()
        get_original("time", "sleep")(0.02)
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


if __name__ == "__main__":
    sys.exit(main())
