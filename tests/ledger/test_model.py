"""Random requests of all kinds: the service and a model in memory must return the same responses, member by member.

`make model STEPS=12500` makes more steps than `make test` and prints how often each response was seen. A failure prints
the MODEL_SEED that repeats it.
"""

import dataclasses
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import psycopg
import pytest

from service import database
from service.contract import LIMITS
from service.ledger import audit
from tests.support import broken
from tests.support.broken_rules import BROKEN_RULES
from tests.support.client import Client
from tests.support.ledger import Clock, empty
from tests.support.model import Model
from tests.support.steps import OPENED, START, TIMES, Steps

STEPS = int(os.environ.get("MODEL_STEPS", "1000"))
SEED = int(os.environ.get("MODEL_SEED") or secrets.randbits(32))
STEPS_OF_A_RUN = 100  # then the next run starts with an empty ledger
RUNS_OF_A_BROKEN_BUILD = 100

Responses = Counter[tuple[str, str]]  # how often each was seen, by kind of request, and status with slug


def normal(body: Any) -> Any:
    """A body as the model returns it: a problem has a slug, and not the members that only the service knows."""
    if isinstance(body, list):
        return [normal(each) for each in body]
    if not isinstance(body, dict):
        return body
    if "type" in body:
        slug = body["type"].removeprefix("/problems/")
        body = {name: body[name] for name in body.keys() - {"type", "title", "status", "detail", "request_id"}}
        body |= {"slug": slug} | ({"differs": sorted(body["differs"])} if "differs" in body else {})
    return {name: normal(value) for name, value in body.items()}


class Run:
    """Random steps on an empty ledger, which the service and a model both take. They depend on the seed alone."""

    def __init__(self, client: Client, owner: psycopg.Connection[Any], seed: int, only: tuple[str, ...] = ()) -> None:
        self.client = client
        self.writer = client.with_scopes("read", "write")
        self.owner = owner
        self.random = Random(seed)
        self.model = Model(START)
        self.steps = Steps(self.random, self.model, only)
        self.responses: Responses = Counter()

    def take(self, count: int) -> None:
        """Take `count` steps, then audit the ledger. Raises AssertionError if service and model differ."""
        Clock(self.owner).stop(START)
        empty(self.owner)
        self.owner.execute("ALTER TABLE account_change ALTER COLUMN change RESTART")
        for id, currency, min_balance in OPENED:
            self.steps.sent.append(("PUT", f"accounts/{id}", {"currency": currency, "min_balance": min_balance}))
            self.send(*self.steps.sent[-1])
        for _ in range(count):
            chance = self.random.random()
            if chance < 0.08:
                time = self.random.choice(TIMES)
                Clock(self.owner).turn(seconds=time.total_seconds())
                self.model.pass_time(time)
            elif chance < 0.1:
                self.forget_a_total()
            else:
                self.send(*self.steps.next(), is_admin=self.random.random() < 0.95)
        assert not audit.run(self.owner).errors

    def forget_a_total(self) -> None:
        """Make a reversal as the release before migration 0010 wrote it. This changes no response."""
        number = self.random.randint(1, self.model.number + 1)
        self.owner.execute("UPDATE transfer SET reversed_total = NULL WHERE number = %s", [number])

    def send(self, method: str, target: str, body: Any = None, *, is_admin: bool = True) -> None:
        """Send the request to both and compare the responses."""
        status, expected = self.model.respond(method, f"/v1/{target}", body, is_admin=is_admin)
        reply = (self.client if is_admin else self.writer).request(method, f"/v1/{target}", body)
        response = f"{reply.status} {reply.slug} {reply.json['reason'] if reply.slug == 'batch-refused' else ''}"
        self.responses[kind_of(method, target, body), response.strip()] += 1
        if method == "POST" and reply.status == 200:
            for item, result in zip(body["items"], reply.json["results"], strict=True):
                [(kind, members)] = item.items()
                slug = normal(result.get("problem", {"slug": ""}))["slug"]
                self.responses[kind_of("item", kind, members), f"{result['status']} {slug}".strip()] += 1
        assert (reply.status, normal(reply.json)) == (status, normal(expected)), (method, target, body)


def kind_of(method: str, target: str, body: Any) -> str:
    """The kind of a request or of an item of a batch, as it is counted."""
    path, _, query = target.partition("?")
    parts = path.split("/")
    named = next((name for name in ("captures", "reverses") if method in ("PUT", "item") and name in body), "")
    atomic = "atomic" if method == "POST" and body["atomic"] else ""
    parameters = "&".join(parameter.partition("=")[0] for parameter in query.split("&"))
    return " ".join(filter(None, [method, parts[0], *parts[2:], named, atomic, parameters]))


def take_runs(client: Client, owner: psycopg.Connection[Any], seeds: Iterable[int], *only: str) -> Responses:
    """Take one run for each seed; returns the responses of all."""
    responses: Responses = Counter()
    for seed in seeds:
        run = Run(client, owner, seed, only)
        try:
            run.take(STEPS_OF_A_RUN)
        except Exception as error:
            error.add_note(f"MODEL_SEED={seed} repeats this run.")
            raise
        responses += run.responses
    return responses


@pytest.mark.promise(12)
def test_the_service_does_what_the_model_does(client: Client, owner: psycopg.Connection[Any]) -> None:
    """Every member of every response is the same, and the ledger passes the audit after each run."""
    responses = take_runs(client, owner, range(SEED, SEED + max(1, STEPS // STEPS_OF_A_RUN)))
    for (kind, response), count in sorted(responses.items()):
        print(f"{count:>7,}  {kind:46} {response}")
    requests = sum(count for (kind, _), count in responses.items() if not kind.startswith("item"))
    print(f"{requests:>7,}  requests, no difference")


@pytest.mark.parametrize(
    ("function", "original", "replacement", "only"), list(BROKEN_RULES.values()), ids=list(BROKEN_RULES)
)
def test_a_build_with_a_broken_rule_differs_from_the_model(
    client: Client,
    owner: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., Any],
    original: str,
    replacement: str,
    only: str,
) -> None:
    """Broken on purpose, one rule each. The runs have fixed seeds, and only the steps that show the difference."""
    monkeypatch.setattr(database, "LIMITS", dataclasses.replace(LIMITS, request_deadline_seconds=1))
    broken.build(monkeypatch, function, original, replacement)
    with pytest.raises(AssertionError):
        take_runs(client, owner, range(RUNS_OF_A_BROKEN_BUILD), *only.split())
    empty(owner)  # what such a build wrote does not pass the audit
