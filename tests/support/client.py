"""A client of the WSGI application, in process. It checks every response against the OpenAPI document."""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dev.run import TOKEN
from service.config import DEVELOPMENT_TOKEN_SHA256, Caller
from service.http.app import Application
from tests.support import openapi

MAX_PAGES = 100  # of a list that a test reads to its end


@dataclass(frozen=True)
class Reply:
    """A response: status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str:
        """The slug of the problem; empty if the response is not a problem."""
        return str(self.json["type"]).removeprefix("/problems/") if self.status >= 400 else ""

    @property
    def pointers(self) -> list[str]:
        """The JSON pointers of the errors that the problem lists."""
        return [error["pointer"] for error in self.json["errors"]]

    @property
    def without_request_id(self) -> dict[str, Any]:
        """The members that are equal if the same problem is returned again."""
        return {name: value for name, value in self.json.items() if name != "request_id"}


class Client:
    """Calls the application with what gunicorn would pass to it."""

    def __init__(self, application: Application, token: str | None = TOKEN) -> None:
        self.application = application
        self.token = token

    def with_scopes(self, *scopes: str) -> "Client":
        """A client of the same service whose caller has only these scopes."""
        caller = Caller("development", frozenset(scopes), (DEVELOPMENT_TOKEN_SHA256,))
        return Client(Application(self.application.dependencies, (caller,)))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        environ: dict[str, Any] | None = None,
    ) -> Reply:
        """Send `body` as JSON, or `raw` as it is. `environ` replaces variables of WSGI; None removes one."""
        return self._call(self._environ(method, path, body, raw, environ or {}))

    @contextlib.contextmanager
    def not_receiving(self, path: str) -> Iterator[None]:
        """During the block, this client does not receive the response to GET. Its connection then ends."""
        with contextlib.closing(self.application(self._environ("GET", path, None, None, {}), _ignore)):
            yield

    def _environ(
        self, method: str, path: str, body: Any, raw: bytes | None, replaced: dict[str, Any]
    ) -> dict[str, Any]:
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        variables: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "RAW_URI": path,
            "QUERY_STRING": path.partition("?")[2],
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "ledger.test",
            "REMOTE_ADDR": "192.0.2.1",
            "wsgi.input": io.BytesIO(content),
        }
        if self.token:
            variables["HTTP_AUTHORIZATION"] = f"Bearer {self.token}"
        if raw is not None or body is not None:
            variables |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(content))}
        variables |= replaced
        return {name: value for name, value in variables.items() if value is not None}

    def _call(self, environ: dict[str, Any]) -> Reply:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started.extend([status, headers])

        with contextlib.closing(self.application(environ, start_response)) as parts:
            body = b"".join(parts)
        reply = Reply(int(started[0][:3]), dict(started[1]), body)
        path = environ["RAW_URI"].partition("?")[0]
        openapi.check(environ["REQUEST_METHOD"], path, reply.status, reply.headers, reply.body)
        return reply

    def get(self, path: str, **options: Any) -> Reply:
        return self.request("GET", path, **options)

    def put(self, path: str, body: Any = None, **options: Any) -> Reply:
        return self.request("PUT", path, body, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Reply:
        return self.request("POST", path, body, **options)

    def open(self, *ids: str, currency: str = "EUR", min_balance: int | None = 0, **members: Any) -> None:
        """Open accounts."""
        for id in ids:
            reply = self.put(f"/v1/accounts/{id}", {"currency": currency, "min_balance": min_balance, **members})
            assert reply.status == 201, reply.body

    def change(self, id: str, /, **members: Any) -> Reply:
        """Change min_balance, max_balance, status or metadata of an account."""
        return self.request("PATCH", f"/v1/accounts/{id}", members)

    def move(
        self, id: str, source: str = "a", target: str = "b", amount: int = 1, currency: str = "EUR", **members: Any
    ) -> Reply:
        """Post the plain transfer `id`."""
        return self.put(f"/v1/transfers/{id}", movement(source, target, amount, currency, **members))

    def capture(self, id: str, hold: str, **members: Any) -> Reply:
        """Post the transfer `id` that captures the hold; all of it if there is no amount=."""
        return self.put(f"/v1/transfers/{id}", {"captures": hold, **members})

    def reverse(self, id: str, transfer: str, **members: Any) -> Reply:
        """Post the transfer `id` that reverses the other one; all that is left of it if there is no amount=."""
        return self.put(f"/v1/transfers/{id}", {"reverses": transfer, **members})

    def batch(self, *items: dict[str, Any], atomic: bool = False) -> Reply:
        """Post a batch of what `item` and the functions whose names end in `_item` below return."""
        return self.post("/v1/batches", {"atomic": atomic, "items": list(items)})

    def hold(
        self, id: str, source: str = "a", target: str = "b", amount: int = 1, currency: str = "EUR", **members: Any
    ) -> Reply:
        """Place the hold `id`."""
        return self.put(f"/v1/holds/{id}", movement(source, target, amount, currency, **members))

    def release(self, id: str) -> Reply:
        """Release a hold."""
        return self.request("DELETE", f"/v1/holds/{id}")

    def balance(self, id: str) -> int:
        return int(self.get(f"/v1/accounts/{id}").json["balance"])

    def amounts(self, id: str) -> tuple[int, int, int]:
        """Balance, held and available of an account."""
        account = self.get(f"/v1/accounts/{id}").json
        return account["balance"], account["held"], account["available"]

    def pages(self, path: str, limit: int, cursor: str = "after") -> list[Any]:
        """All pages of a list, in order. `cursor` is the parameter that takes the `next` of the page before."""
        separator = "&" if "?" in path else "?"
        pages = [self.get(f"{path}{separator}limit={limit}").json]
        while pages[-1]["next"] is not None:
            assert len(pages) < MAX_PAGES, f"{path} has more than {MAX_PAGES} pages"
            pages.append(self.get(f"{path}{separator}limit={limit}&{cursor}={pages[-1]['next']}").json)
        return pages


def _ignore(*arguments: Any) -> Any:
    """The start_response of a client that does not receive the response."""


def movement(
    source: str = "a", target: str = "b", amount: int = 1, currency: str = "EUR", **members: Any
) -> dict[str, Any]:
    """The body of a plain transfer or of a hold."""
    return {"from": source, "to": target, "amount": amount, "currency": currency, **members}


def item(
    id: str, source: str = "a", target: str = "b", amount: int = 1, currency: str = "EUR", **members: Any
) -> dict[str, Any]:
    """An item of a batch: a plain transfer."""
    return {"transfer": {"id": id, **movement(source, target, amount, currency, **members)}}


def capture_item(id: str, hold: str, **members: Any) -> dict[str, Any]:
    """An item of a batch: a transfer that captures a hold."""
    return {"transfer": {"id": id, "captures": hold, **members}}


def reverse_item(id: str, transfer: str, **members: Any) -> dict[str, Any]:
    """An item of a batch: a transfer that reverses another one."""
    return {"transfer": {"id": id, "reverses": transfer, **members}}


def open_item(id: str, currency: str = "EUR", **members: Any) -> dict[str, Any]:
    """An item of a batch: an account to open."""
    return {"account": {"id": id, "currency": currency, **members}}


def hold_item(
    id: str, source: str = "a", target: str = "b", amount: int = 1, currency: str = "EUR", **members: Any
) -> dict[str, Any]:
    """An item of a batch: a hold to place."""
    return {"hold": {"id": id, **movement(source, target, amount, currency, **members)}}


def release_item(hold: str) -> dict[str, Any]:
    """An item of a batch: the release of a hold."""
    return {"release": {"id": hold}}


def posted_transfer(id: str, source: str, target: str, amount: int, **members: Any) -> dict[str, Any]:
    """The JSON of a posted transfer. `members` are those that have no default here or another value."""
    defaults = {"status": "posted", "reference": None, "captures": None, "reverses": None, "created_by": "development"}
    return {"id": id, **movement(source, target, amount), **defaults, **members}
