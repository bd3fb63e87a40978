"""A caller of the WSGI application, in process. Every answer it gets is checked against the OpenAPI document."""

import io
import json
from dataclasses import dataclass
from typing import Any

from service.app import Application
from tests import openapi
from tests.live import TOKEN


@dataclass(frozen=True)
class Reply:
    """An answer: status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str:
        """Which problem the answer is; empty if it is none."""
        return str(self.json["type"]).removeprefix("/problems/") if self.status >= 400 else ""


class Client:
    """Speaks to the application as gunicorn would hand it a request."""

    def __init__(self, application: Application, token: str | None = TOKEN) -> None:
        self.application = application
        self.token = token

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        environ: dict[str, str | None] | None = None,
    ) -> Reply:
        """Send `body` as JSON, or `raw` as it is. `environ` overrides what the server would say; None removes it."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        given: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "RAW_URI": path,
            "QUERY_STRING": path.partition("?")[2],
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "ledger.test",
            "REMOTE_ADDR": "192.0.2.1",
            "wsgi.input": io.BytesIO(content),
        }
        if self.token:
            given["HTTP_AUTHORIZATION"] = f"Bearer {self.token}"
        if raw is not None or body is not None:
            given |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(content))}
        given |= environ or {}
        return self._call({name: value for name, value in given.items() if value is not None})

    def _call(self, environ: dict[str, Any]) -> Reply:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started.extend([status, headers])

        body = b"".join(self.application(environ, start_response))
        reply = Reply(int(started[0][:3]), dict(started[1]), body)
        path = environ["RAW_URI"].partition("?")[0]
        openapi.check(environ["REQUEST_METHOD"], path, reply.status, reply.headers, reply.body)
        return reply

    def get(self, path: str, **given: Any) -> Reply:
        return self.request("GET", path, **given)

    def put(self, path: str, body: Any = None, **given: Any) -> Reply:
        return self.request("PUT", path, body, **given)

    def post(self, path: str, body: Any = None, **given: Any) -> Reply:
        return self.request("POST", path, body, **given)

    def open(self, *ids: str, currency: str = "EUR", min_balance: int | None = 0) -> None:
        """Open accounts that a test needs."""
        for id in ids:
            reply = self.put(f"/v1/accounts/{id}", {"currency": currency, "min_balance": min_balance})
            assert reply.status == 201, reply.body

    def move(self, id: str, source: str, target: str, amount: int, currency: str = "EUR", **more: Any) -> Reply:
        """Post one transfer."""
        body = {"from": source, "to": target, "amount": amount, "currency": currency, **more}
        return self.put(f"/v1/transfers/{id}", body)

    def hold(self, id: str, source: str, target: str, amount: int, currency: str = "EUR", **more: Any) -> Reply:
        """Set money aside."""
        body = {"from": source, "to": target, "amount": amount, "currency": currency, **more}
        return self.put(f"/v1/holds/{id}", body)

    def release(self, id: str) -> Reply:
        """Release a hold."""
        return self.request("DELETE", f"/v1/holds/{id}")

    def capture(self, id: str, hold: str, **more: Any) -> Reply:
        """Post the transfer `id` of what the hold set aside; all of it if no amount= is given."""
        return self.put(f"/v1/transfers/{id}", {"captures": hold, **more})

    def reverse(self, id: str, transfer: str, **more: Any) -> Reply:
        """Post the transfer `id` that gives another one back; all that is left of it if no amount= is given."""
        return self.put(f"/v1/transfers/{id}", {"reverses": transfer, **more})

    def change(self, id: str, /, **members: Any) -> Reply:
        """Change min_balance, status or metadata of an account."""
        return self.request("PATCH", f"/v1/accounts/{id}", members)

    def batch(self, *items: dict[str, Any], atomic: bool = False) -> Reply:
        """Post a batch of what `item` made."""
        return self.post("/v1/transfers", {"atomic": atomic, "transfers": list(items)})

    def balance(self, id: str) -> int:
        return int(self.get(f"/v1/accounts/{id}").json["balance"])

    def amounts(self, id: str) -> tuple[int, int, int]:
        """Balance, held and available of an account."""
        account = self.get(f"/v1/accounts/{id}").json
        return account["balance"], account["held"], account["available"]


def item(id: str, source: str, target: str, amount: int, currency: str = "EUR", **more: Any) -> dict[str, Any]:
    """One transfer of a batch."""
    return {"id": id, "from": source, "to": target, "amount": amount, "currency": currency, **more}


def capture(id: str, hold: str, **more: Any) -> dict[str, Any]:
    """One transfer of a batch, of what a hold has set aside."""
    return {"id": id, "captures": hold, **more}


def reverse(id: str, transfer: str, **more: Any) -> dict[str, Any]:
    """One transfer of a batch, that gives another one back."""
    return {"id": id, "reverses": transfer, **more}
