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
from service.ledger import accounts, audit, clock, holds, rules, transfers
from tests.support import broken
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
            if self.random.random() < 0.08:
                time = self.random.choice(TIMES)
                Clock(self.owner).turn(seconds=time.total_seconds())
                self.model.pass_time(time)
            else:
                self.send(*self.steps.next())
        assert not audit.run(self.owner).errors

    def send(self, method: str, target: str, body: Any = None) -> None:
        """Send the request to both and compare the responses."""
        status, expected = self.model.respond(method, f"/v1/{target}", body)
        reply = self.client.request(method, f"/v1/{target}", body)
        self.responses[kind_of(method, target, body), f"{reply.status} {reply.slug}"] += 1
        if method == "POST" and reply.status == 200:
            for item, result in zip(body["transfers"], reply.json["results"], strict=True):
                slug = normal(result.get("problem", {"slug": ""}))["slug"]
                self.responses[kind_of("item", "of a batch", item), f"{result['status']} {slug}"] += 1
        assert (reply.status, normal(reply.json)) == (status, normal(expected)), (method, target, body)


def kind_of(method: str, target: str, body: Any) -> str:
    """The kind of a request, as it is counted."""
    parts = target.partition("?")[0].split("/")
    named = next((name for name in ("captures", "reverses") if method in ("PUT", "item") and name in body), "")
    atomic = "atomic" if method == "POST" and body["atomic"] else ""
    return " ".join(filter(None, [method, parts[0], *parts[2:], named, atomic]))


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
        print(f"{count:>7,}  {kind:34} {response}")
    requests = sum(count for (kind, _), count in responses.items() if "item" not in kind)
    print(f"{requests:>7,}  requests, no difference")


# What is broken: the function, a piece of its source, the replacement, and the kinds of steps that show the difference.
BROKEN_BUILDS: dict[str, tuple[Callable[..., Any], str, str, str]] = {
    "an atomic batch continues after a refusal": (rules.decide, "if atomic and", "if False and", "batch"),
    "a capture frees only its own amount": (
        rules.decide_transfer,
        "(hold.amount if hold else 0)",
        "(transfer.amount if hold else 0)",
        "hold post get",
    ),
    "a replay ignores a missing amount": (
        rules.decide_transfer,
        '"takes_rest": command.amount is None',
        "",
        "post vary",
    ),
    "a reversal has the accounts of the original": (
        rules.build_transfer,
        "original.to_account, original.from",
        "original.from_account, original.from",
        "post",
    ),
    "a hold that is not open can be captured": (
        rules.find_transfer_violation,
        'if hold and hold.status != "open":',
        "if False:",
        "hold post release",
    ),
    "a capture can exceed its hold": (
        rules.find_transfer_violation,
        "transfer.amount > hold.amount",
        "False",
        "hold post",
    ),
    "a hold can expire at its own time": (
        rules.find_hold_violation,
        "hold.expires_at <= state.now",
        "hold.expires_at < state.now",
        "hold",
    ),
    "a release frees nothing": (rules.decide_release, "held=source.held - hold.amount", "", "hold release"),
    "a declined transfer is replayed as posted": (
        rules.replay,
        'if known.status == "declined":',
        "if False:",
        "post repeat",
    ),
    "a decline is not stored": (rules.decline, "records[record.id] = declined", "pass", "post repeat"),
    "earlier reversals do not count": (rules.reversible_amount, "- state.reversed.get(original.id, 0)", "", "post"),
    "a decline can be reversed": (rules.reversible_amount, 'if original.status == "posted" else 0', "", "post"),
    "a reserved amount can be spent": (rules.find_common_violation, "source.available", "source.balance", "post hold"),
    "a frozen account refuses captures": (rules.find_common_violation, "and not allow_frozen", "", "post hold change"),
    "a closed account accepts transfers": (
        rules.find_common_violation,
        'account.status == "closed" or',
        "",
        "post change",
    ),
    "an expired hold is shown as open": (
        holds.get_and_advance_time,
        'if hold.status == "open" else hold',
        "if False else hold",
        "hold get",
    ),
    "a posting does not store expiries": (clock.read, "AND expires_at <= now", "AND false", "hold post"),
    "a change lists members that are the same": (
        accounts.change,
        "if members[name] != getattr(account, name)",
        "",
        "change list",
    ),
    "a floor can exceed the available amount": (
        accounts.check_change,
        "changed.available <",
        "changed.balance <",
        "hold post change",
    ),
    "an opening is compared with the newest members": (
        accounts.values_before_changes,
        "ORDER BY member, change",
        "ORDER BY member, change DESC",
        "open change",
    ),
    "a time excludes its own transfers": (
        clock.final_number,
        "created_at <= %(at)s",
        "created_at < %(at)s",
        "post past_balance",
    ),
    "a page repeats a row": (transfers.list_after, '"after": after', '"after": after - 1', "post list"),
}


@pytest.mark.parametrize(
    ("function", "original", "replacement", "only"), list(BROKEN_BUILDS.values()), ids=list(BROKEN_BUILDS)
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
