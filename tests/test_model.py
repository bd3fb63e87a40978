"""Random requests of all kinds: the service and a model of it in memory must give the same answer, member by member.

`make model STEPS=12500` takes more steps than the tests do, and prints what was asked and answered.
"""

import os
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from service.ledger import accounts, audit, holds, posting, transfers
from tests import broken
from tests.client import Client
from tests.conftest import Clock, empty
from tests.model import Model
from tests.steps import OPENED, START, TIMES, Steps

HOW_MANY = int(os.environ.get("MODEL_STEPS", "1000"))
STEPS_OF_A_RUN = 100  # then everything begins anew


def normal(answer: Any) -> Any:
    """An answer without what only the service can know; a problem by its slug and members."""
    if isinstance(answer, list):
        return [normal(each) for each in answer]
    if not isinstance(answer, dict):
        return answer
    if "type" in answer:
        slug = answer["type"].removeprefix("/problems/")
        answer = {name: answer[name] for name in answer.keys() - {"type", "title", "status", "detail", "request_id"}}
        answer |= {"slug": slug} | ({"differs": sorted(answer["differs"])} if "differs" in answer else {})
    return {name: normal(value) for name, value in answer.items()}


class Machine(RuleBasedStateMachine):
    """Sends each request to both and compares. What a step is follows from a seed, so that a run can be cut short."""

    client: Client
    owner: psycopg.Connection[Any]
    told: Counter[tuple[str, str]]
    only: tuple[str, ...] = ()  # the ways of tests.steps that are taken; none means all

    @initialize(seed=st.integers(0, 2**64))
    def begin(self, seed: int) -> None:
        Clock(self.owner).stop(START)
        empty(self.owner)
        self.owner.execute("ALTER TABLE account_change ALTER COLUMN change RESTART")
        self.model = Model(START)
        self.steps, self.seed, self.taken = Steps(self.model, self.only), seed, 0
        for id, currency, floor in OPENED:
            self.steps.sent.append(("PUT", f"accounts/{id}", {"currency": currency, "min_balance": floor}))
            self.send(*self.steps.sent[-1])

    @rule(seed=st.integers(0, 2**64))
    def step(self, seed: int) -> None:
        self.taken += 1
        chance = Random(f"{self.seed} {seed} {self.taken}")  # as hypothesis likes to repeat what it draws
        if chance.random() < 0.08:
            time = chance.choice(TIMES)
            Clock(self.owner).turn(microseconds=time / TIMES[0])
            self.model.pass_time(time)
        else:
            self.send(*self.steps.next(chance))

    def send(self, method: str, target: str, body: Any = None) -> None:
        """The one place where the two meet."""
        status, expected = self.model.answer(method, f"/v1/{target}", body)
        reply = self.client.request(method, f"/v1/{target}", body)
        self.told[_kind(method, target, body), f"{reply.status} {reply.slug}"] += 1
        if method == "POST" and reply.status == 200:
            for item, result in zip(body["transfers"], reply.json["results"], strict=True):
                slug = normal(result.get("problem", {"slug": ""}))["slug"]
                self.told[_kind("item", "of a batch", item), f"{result['status']} {slug}"] += 1
        assert (reply.status, normal(reply.json)) == (status, normal(expected)), (method, target, body)

    def teardown(self) -> None:
        assert not audit.run(self.owner).errors


def _kind(method: str, target: str, body: Any) -> str:
    """What was asked, for the count."""
    parts = target.partition("?")[0].split("/")
    named = next((name for name in ("captures", "reverses") if method in ("PUT", "item") and name in body), "")
    atomic = "atomic" if method == "POST" and body["atomic"] else ""
    return " ".join(filter(None, [method, parts[0], *parts[2:], named, atomic]))


SETTINGS = hypothesis.settings(
    max_examples=max(1, HOW_MANY // STEPS_OF_A_RUN),
    stateful_step_count=STEPS_OF_A_RUN,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture
def machine(client: Client, owner: psycopg.Connection[Any]) -> type[Machine]:
    return type("Connected", (Machine,), {"client": client, "owner": owner, "told": Counter()})


@pytest.mark.promise(12)
def test_the_service_does_what_the_model_does(machine: type[Machine]) -> None:
    """Random steps, every member of every answer compared, the books read after each run."""
    run_state_machine_as_test(machine, settings=SETTINGS)
    for (kind, answer), count in sorted(machine.told.items()):
        print(f"{count:>7,}  {kind:34} {answer}")
    print(
        f"{sum(count for (kind, _), count in machine.told.items() if 'item' not in kind):>7,}  requests, no difference"
    )


@pytest.mark.parametrize(
    ("function", "right", "wrong", "steps"),
    [
        (posting.decide, "if atomic and", "if False and", "batch"),
        (posting._transfer, "(hold.amount if hold else 0)", "(transfer.amount if hold else 0)", "hold post look"),
        (posting._transfer, '"takes_rest": request.amount is None', "", "post otherwise"),
        (posting._draft, "original.to_account, original.from", "original.from_account, original.from", "post"),
        (posting._broken_by_transfer, 'if hold and hold.status != "open":', "if False:", "hold post release"),
        (posting._broken_by_transfer, "transfer.amount > hold.amount", "False", "hold post"),
        (posting._hold, "hold.expires_at <= books.now", "hold.expires_at < books.now", "hold"),
        (posting._release, "held=source.held - hold.amount", "", "hold release"),
        (posting._replay, 'if known.status == "declined":', "if False:", "post again"),
        (posting._declined, "records[record.id] = declined", "declined", "post again"),
        (posting._left, "- books.reversed.get(original.id, 0)", "", "post"),
        (posting._left, 'if original.status == "posted" else 0', "", "post"),
        (posting._broken_by_any, "source.available", "source.balance", "post hold"),
        (posting._broken_by_any, "and not was_decided", "", "post hold change"),
        (posting._broken_by_any, 'account.status == "closed" or', "", "post change"),
        (holds.get, 'if hold.status == "open" else hold', "if False else hold", "hold look"),
        (holds.due, "AND expires_at <= now", "AND false", "hold post"),
        (accounts.page, "expires_at <= now", "false", "hold look"),
        (accounts.change, "if members[member] != getattr(account, member)", "", "change list"),
        (accounts.change, "changed.available <", "changed.balance <", "hold post change"),
        (accounts._before_changes, "ORDER BY member, change", "ORDER BY member, change DESC", "open change"),
        (transfers.number_at, "created_at <= %(at)s", "created_at < %(at)s", "post past"),
        (transfers.read_on, "number > %(after)s", "number >= %(after)s", "post list"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_rule_is_found(
    machine: type[Machine],
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., Any],
    right: str,
    wrong: str,
    steps: str,
) -> None:
    """Builds broken on purpose, one rule each, and each is found: soon, as only steps that matter are taken."""
    machine.only = tuple(steps.split())
    broken.build(monkeypatch, function, right, wrong)
    settings = hypothesis.settings(SETTINGS, max_examples=300, phases=[hypothesis.Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=settings)
    empty(machine.owner)  # what such a build leaves does not balance
