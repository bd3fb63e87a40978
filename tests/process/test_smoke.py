"""tests/smoke.sh succeeds with the service, and fails with a broken service or without one."""

import io
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from dev.run import TOKEN
from service.http.app import Application
from tests.support import live
from tests.support.waiting import LIMIT_SECONDS, join

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Handler(WSGIRequestHandler):
    """Adds RAW_URI, as gunicorn does. Prints nothing."""

    def get_environ(self) -> dict[str, Any]:
        return super().get_environ() | {"RAW_URI": self.path}

    def log_message(self, *arguments: Any) -> None:
        return


@contextmanager
def serving(application: Wsgi) -> Iterator[str]:
    """The URL of the application, served by a thread of this process."""
    with make_server("127.0.0.1", 0, application, handler_class=Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            join(thread)


def smoke(url: str, token: str = TOKEN) -> "subprocess.CompletedProcess[str]":
    """Run the script."""
    environment = {"PATH": os.environ["PATH"], "LEDGER_TOKEN": token}
    command = ["sh", "tests/smoke.sh", url]
    return subprocess.run(
        command, cwd=live.ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )


def replacing(path: str, old: bytes, new: bytes) -> Callable[[Application], Wsgi]:
    """A service that replaces `old` in the responses to requests with `path` in their path."""

    def break_it(application: Application) -> Wsgi:
        def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            started: list[Any] = []

            def start_later(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
                started.extend([status, headers])

            body = b"".join(application(environ, start_later))
            if path in environ["RAW_URI"]:
                body = body.replace(old, new)
            headers = [(name, value) for name, value in started[1] if name != "Content-Length"]
            start_response(started[0], headers)
            return [body]

        return broken

    return break_it


def applying_repeats(application: Application) -> Wsgi:
    """A service that applies a repeated transfer again: it changes the id."""
    repeats = iter(range(1000))

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT" and environ["RAW_URI"].endswith(":1") and (number := next(repeats)):
            environ["RAW_URI"] += f"-{number}"
        return application(environ, start_response)

    return broken


def without_limits(application: Application) -> Wsgi:
    """A service that opens each account without a min_balance."""

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "/accounts/" in environ["RAW_URI"] and environ["REQUEST_METHOD"] == "PUT":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).replace(b"-1", b"null")
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        return application(environ, start_response)

    return broken


def reversing_twice(application: Application) -> Wsgi:
    """A service that posts a second reversal as a transfer of its own."""
    reversals = iter(range(1000))

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "CONTENT_LENGTH" in environ and environ["REQUEST_METHOD"] == "PUT":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
            if b"reverses" in body and next(reversals):
                run = environ["RAW_URI"].removeprefix("/v1/transfers/").rpartition(":")[0].encode()
                body = b'{"from": "%b:b", "to": "%b:a", "amount": 1, "currency": "EUR"}' % (run, run)
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        return application(environ, start_response)

    return broken


def test_the_service_passes(application: Application) -> None:
    """All 13 steps are printed, also in a second run on the same database."""
    with serving(application) as url:
        for _ in range(2):
            done = smoke(url)
            assert (done.returncode, done.stderr) == (0, ""), done
            assert done.stdout.count("ok: ") == 13


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (replacing("/ready", b"true", b"false"), "GET /ready returned a body without"),
        (replacing("/metrics", b"ledger_transfers_total", b""), "GET /metrics returned a body without"),
        (replacing("/v1/transfers/", b'"to_balance": 1', b'"to_balance": 2'), "without"),
        (applying_repeats, "returned 422 instead of 200"),
        (without_limits, "returned 201 instead of 422"),
        (replacing("/v1/accounts/", b'"held": 1', b'"held": 0'), 'without "balance": 1, "held": 1'),
        (replacing("/v1/holds/", b'"captured"', b'"open"'), 'without "status": "captured"'),
        (reversing_twice, "returned 201 instead of 422"),
        (replacing("/v1/holds/", b'"released"', b'"open"'), 'without "status": "released"'),
        (replacing("/v1/batches", b'"to_balance": 1', b'"to_balance": 0'), 'without "to_balance": 1'),
    ],
    ids=[
        *("never ready", "no metrics", "incorrect balance", "repeats are applied", "overdrafts are posted"),
        *("holds reserve nothing", "captured holds stay open", "reverses twice", "releases nothing"),
        "incorrect batch",
    ],
)
def test_a_broken_service_fails(
    application: Application, break_it: Callable[[Application], Wsgi], complaint: str
) -> None:
    """Exit code 1 at the first error, with the reason."""
    with serving(break_it(application)) as url:
        done = smoke(url)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_an_unreachable_service_fails() -> None:
    """Exit code 1, with the request that got no response."""
    done = smoke(f"http://127.0.0.1:{live.free_port()}")
    assert (done.returncode, "GET /health got no response" in done.stderr) == (1, True)


def test_an_unknown_token_fails(application: Application) -> None:
    """The probes need no token; the first write returns 401."""
    with serving(application) as url:
        done = smoke(url, token="unknown")
    assert (done.returncode, "returned 401 instead of 201" in done.stderr) == (1, True)
