"""tests/smoke.sh passes against a good service and fails against broken ones, saying what is wrong."""

import io
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from service.app import Application
from tests import live

ROOT = Path(__file__).parents[1]
Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Handler(WSGIRequestHandler):
    """As gunicorn does, says the target as it was sent. Prints nothing."""

    def get_environ(self) -> dict[str, Any]:
        return super().get_environ() | {"RAW_URI": self.path}

    def log_message(self, *arguments: Any) -> None:
        return


@contextmanager
def serving(application: Wsgi) -> Iterator[str]:
    with make_server("127.0.0.1", 0, application, handler_class=Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def smoke(url: str, token: str = live.TOKEN) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "LEDGER_TOKEN": token}
    return subprocess.run(["sh", ROOT / "tests" / "smoke.sh", url], env=environment, capture_output=True, text=True)


def replaced(application: Application, path: str, old: bytes, new: bytes) -> Wsgi:
    """A service that answers something else where `path` is in the request's path."""

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        held: list[Any] = []

        def hold(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            held.extend([status, headers])

        body = b"".join(application(environ, hold))
        if path in environ["RAW_URI"]:
            body = body.replace(old, new)
        headers = [(name, value) for name, value in held[1] if name != "Content-Length"]
        start_response(held[0], headers)
        return [body]

    return broken


def forgetful(application: Application) -> Wsgi:
    """A service that takes a repeated transfer for a new one: it changes the id before it looks."""
    count = iter(range(1000))

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT" and environ["RAW_URI"].endswith(":1") and (again := next(count)):
            environ["RAW_URI"] += f"-{again}"
        return application(environ, start_response)

    return broken


def boundless(application: Application) -> Wsgi:
    """A service that opens every account without a floor."""

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "/accounts/" in environ["RAW_URI"] and environ["REQUEST_METHOD"] == "PUT":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).replace(b"-1", b"null")
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        return application(environ, start_response)

    return broken


def generous(application: Application) -> Wsgi:
    """A service that takes a second reversal for a new transfer of its own."""
    count = iter(range(1000))

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "CONTENT_LENGTH" in environ and environ["REQUEST_METHOD"] == "PUT":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
            if b"reverses" in body and next(count):
                run = environ["RAW_URI"].removeprefix("/v1/transfers/").rpartition(":")[0].encode()
                body = b'{"from": "%b:b", "to": "%b:a", "amount": 1, "currency": "EUR"}' % (run, run)
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        return application(environ, start_response)

    return broken


def test_a_good_service_passes(application: Application) -> None:
    """Every step is named, twice in a row too."""
    with serving(application) as url:
        for _ in range(2):
            done = smoke(url)
            assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.count("ok: ") == 12


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda app: replaced(app, "/ready", b"true", b"false"), "GET /ready answered without"),
        (lambda app: replaced(app, "/metrics", b"ledger_transfers_total", b""), "GET /metrics answered without"),
        (lambda app: replaced(app, "/v1/transfers/", b'"to_balance": 1', b'"to_balance": 2'), "without"),
        (forgetful, "answered 422 instead of 200"),
        (boundless, "answered 201 instead of 422"),
        (lambda app: replaced(app, "/v1/accounts/", b'"held": 1', b'"held": 0'), 'without "balance": 1, "held": 1'),
        (lambda app: replaced(app, "/v1/holds/", b'"captured"', b'"open"'), 'without "status": "captured"'),
        (generous, "answered 201 instead of 422"),
        (lambda app: replaced(app, "/v1/holds/", b'"released"', b'"open"'), 'without "status": "released"'),
    ],
    ids=[
        *("never ready", "no metrics", "wrong balance", "repeats move money", "no floor"),
        *("holds hold nothing", "captured holds stay open", "gives back twice", "releases nothing"),
    ],
)
def test_a_broken_service_fails(
    application: Application, break_it: Callable[[Application], Wsgi], complaint: str
) -> None:
    """Exit 1 at the first thing wrong, saying what."""
    with serving(break_it(application)) as url:
        done = smoke(url)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_no_service_fails() -> None:
    """Nobody there is said so."""
    done = smoke(f"http://127.0.0.1:{live.free_port()}")
    assert (done.returncode, "GET /health got no answer" in done.stderr) == (1, True)


def test_a_wrong_token_fails(application: Application) -> None:
    """The probes pass, the first write does not."""
    with serving(application) as url:
        done = smoke(url, token="wrong")
    assert (done.returncode, "answered 401 instead of 201" in done.stderr) == (1, True)
