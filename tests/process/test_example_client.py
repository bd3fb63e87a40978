"""How examples/client.py decides after each response: the table of docs/contract.md, "How to retry safely"."""

import contextlib
import json

import pytest

from examples import client
from examples.client import Declined, Ledger, LedgerError, NotApplied, OutcomeUnknown
from service.contract import PROBLEMS
from tests.support import broken
from tests.support.scripted import LOST, SILENT, Reply, problem, reply, scripted

TIMEOUT_SECONDS = 1  # of the client, where a reply is SILENT
TRANSFER = {"from": "world", "to": "user:42", "amount": 1250, "currency": "EUR"}
HTML = "<html><body>Bad Gateway</body></html>"
POSTED = reply(201, {"id": "pay_1", "a_member_of_a_later_release": 1})
NOT_APPLIED = problem("overloaded", 503, outcome="not_applied")
UNCLEAR = {  # what says nothing about the effect of the request
    "lost connection": LOST,
    "timeout": SILENT,
    "a part of a response": POSTED[:-1],
    "not HTTP": b"?\r\n\r\n",
    "502 of a gateway": reply(502, HTML),
    "504 of a gateway": reply(504, HTML),
    "503 of a gateway": reply(503, {"status": 503}),
    "404 of a gateway": reply(404, HTML),
    "429 of a gateway": reply(429, {"type": "about:blank", "title": "insufficient-funds", "status": 429}),
    "200 that is not JSON": reply(200, HTML),
    "500": problem("internal-error", 500, request_id="r"),
    "503 with outcome unknown": problem("database-unavailable", 503, outcome="unknown"),
}
REFUSALS = sorted((slug, entry.status) for slug, entry in PROBLEMS.items() if entry.status < 500)


class Waits(list[float]):
    """Replaces the module `time`: the waits of the client in seconds. They take no time, and advance its clock."""

    def __init__(self) -> None:
        super().__init__()
        self.sleep = self.append

    def monotonic(self) -> float:
        return sum(self)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """The waits of the client in this test."""
    waits = Waits()
    monkeypatch.setattr(client, "time", waits)
    return waits


def post(*replies: Reply) -> list[tuple[str, bytes]]:
    """Post a transfer to a server that sends these replies, then refuses connections. Returns the requests."""
    with scripted(*replies) as server:
        ledger = Ledger(server.url, "token")
        if SILENT in replies:
            ledger.connection.timeout = TIMEOUT_SECONDS
        with contextlib.closing(ledger.connection):
            assert ledger.post("pay_1", "world", "user:42", 1250, "EUR")["id"] == "pay_1"
        return server.requests


def error_of(*replies: Reply) -> LedgerError:
    """The error that the call raises."""
    with pytest.raises(LedgerError) as caught:
        post(*replies)
    return caught.value


@pytest.mark.parametrize("status", [201, 200])
def test_a_success_is_returned(status: int, waits: Waits) -> None:
    """201 and 200 end the call, and unknown members are ignored."""
    [(line, body)] = post(reply(status, {"id": "pay_1", "a_member_of_a_later_release": 1}))
    assert line == "PUT /v1/transfers/pay_1 HTTP/1.1"
    assert json.loads(body) == TRANSFER
    assert not waits


@pytest.mark.parametrize("first", [*UNCLEAR.values(), NOT_APPLIED], ids=[*UNCLEAR, "not applied"])
def test_the_same_request_is_sent_again(first: Reply) -> None:
    """After a response that is not clear, or `not_applied`, the client sends the same id and body until a success."""
    requests = post(first, first, POSTED)
    assert len(requests) == 3
    assert len(set(requests)) == 1


@pytest.mark.parametrize("first", UNCLEAR.values(), ids=UNCLEAR)
def test_the_outcome_stays_unknown(first: Reply) -> None:
    """After one response that is not clear, neither `not_applied` nor a refused connection makes the outcome known."""
    assert type(error_of(first, NOT_APPLIED)) is OutcomeUnknown
    assert type(error_of(NOT_APPLIED, first)) is OutcomeUnknown


def test_a_request_that_was_not_applied_is_known() -> None:
    """If each attempt is `not_applied` or its connection is refused, the request was not applied."""
    assert type(error_of()) is NotApplied
    assert type(error_of(NOT_APPLIED, NOT_APPLIED)) is NotApplied


@pytest.mark.parametrize(("slug", "status"), REFUSALS)
def test_a_refusal_ends_the_call(slug: str, status: int) -> None:
    """Each problem below 500 is raised with its slug and its members, after one request or `not_applied`."""
    for earlier in ((), (NOT_APPLIED,)):
        error = error_of(*earlier, problem(slug, status, available=7))
        assert (type(error), error.slug, error.problem["available"]) == (Declined, slug, 7)


@pytest.mark.parametrize(("slug", "status"), REFUSALS)
def test_only_a_final_refusal_answers_for_a_lost_request(slug: str, status: int) -> None:
    """A problem whose `retry` is `never` is final for the id. After any other one, a lost request can be applied."""
    error = error_of(LOST, problem(slug, status))
    assert type(error) is (Declined if PROBLEMS[slug].retry == "never" else OutcomeUnknown)
    assert error.slug == slug


def test_a_read_has_no_unknown_outcome() -> None:
    """A lost response to a read is read again, and a refusal or the time limit then ends the call."""
    with scripted(LOST, problem("not-found", 404)) as server:
        ledger = Ledger(server.url, "token")
        with contextlib.closing(ledger.connection):
            with pytest.raises(Declined):
                ledger.get("transfers", "pay_1")
            with pytest.raises(NotApplied):
                ledger.get("transfers", "pay_1")


def test_operators_get_the_request_id_of_an_error() -> None:
    """The error at the time limit has the last problem of the ledger."""
    requests = [problem("internal-error", 500, request_id=f"r{number}") for number in range(100)]
    assert error_of(*requests).problem["request_id"].startswith("r")


def test_the_client_waits_as_long_as_retry_after_says(waits: Waits) -> None:
    """A random time is added, which differs from retry to retry and has a limit."""
    post(*[reply(503, HTML, Retry_After="7")] * 5, POSTED)
    assert [7 <= seconds <= 7 + client.MAX_BACKOFF_SECONDS for seconds in waits] == [True] * 5
    assert len(set(waits)) == 5


def test_the_client_waits_longer_from_retry_to_retry(waits: Waits) -> None:
    """Without Retry-After, or with a date, the random time has a limit that doubles up to a maximum."""
    post(*[reply(502, HTML, Retry_After="Sun, 29 Nov 2026 00:00:00 GMT")] * 8, POSTED)
    limits = [min(client.FIRST_BACKOFF_SECONDS * 2**number, client.MAX_BACKOFF_SECONDS) for number in range(8)]
    assert [seconds <= limit for seconds, limit in zip(waits, limits, strict=True)] == [True] * 8


def test_the_call_ends_at_its_time_limit(waits: Waits) -> None:
    """The client does not begin to wait if the time limit would pass, and ends at once."""
    error_of(reply(503, HTML, Retry_After="3600"))
    assert not waits
    error_of(*[NOT_APPLIED] * 100)
    assert 50 < sum(waits) <= 60


@pytest.mark.parametrize(
    ("original", "replacement", "replies", "wrong"),
    [
        ("is_unclear = is_unclear or ", "is_unclear = ", [LOST, NOT_APPLIED], NotApplied),
        ("answer.slug in FINAL or not is_unclear", "True", [LOST, problem("unauthorized", 401)], Declined),
        ('answer.body.get("outcome") != "not_applied"', "True", [NOT_APPLIED], OutcomeUnknown),
    ],
    ids=["forgets unknown outcomes", "believes each refusal", "does not read outcome"],
)
def test_a_broken_client_is_found(
    monkeypatch: pytest.MonkeyPatch, original: str, replacement: str, replies: list[Reply], wrong: type[LedgerError]
) -> None:
    """Builds that are broken on purpose raise another error than the tests above require."""
    right = type(error_of(*replies))
    broken.build(monkeypatch, Ledger._call, original, replacement)
    assert type(error_of(*replies)) is wrong is not right
