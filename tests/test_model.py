"""Random requests of all kinds: the service and a model of it in memory must give the same answer, member by member."""

from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests import books
from tests.client import Client, Reply, item
from tests.conftest import empty

ACCOUNTS = ("a", "b", "c", "world", "dollars", "nobody")
HIGHEST = 2**53 - 1

ids = st.sampled_from([f"t{n}" for n in range(12)])
names = st.sampled_from(ACCOUNTS)
amounts = st.one_of(st.integers(1, 60), st.sampled_from([HIGHEST, HIGHEST - 50]))
metadata = st.sampled_from([{}, {"k": "v"}])
currencies = st.sampled_from(["EUR", "EUR", "EUR", "USD"])
transfers = st.builds(
    lambda id, source, target, amount, currency, metadata: item(
        id, source, target, amount, currency, metadata=metadata
    ),
    *(ids, names, names, amounts, currencies, metadata),
).filter(lambda transfer: transfer["from"] != transfer["to"])


class Model:
    """The rules once more, in the plainest words and without a database."""

    def __init__(self) -> None:
        self.accounts: dict[str, dict[str, Any]] = {}
        self.transfers: dict[str, dict[str, Any]] = {}
        self.number = 0

    def copy(self) -> "Model":
        other = Model()
        other.accounts = {id: dict(account) for id, account in self.accounts.items()}
        other.transfers = dict(self.transfers)
        other.number = self.number
        return other

    def open(self, id: str, currency: str, min_balance: int | None) -> tuple[int, dict[str, Any]]:
        known = self.accounts.get(id)
        asked = {"currency": currency, "min_balance": min_balance}
        if known:
            differs = [name for name, value in asked.items() if known[name] != value]
            return (409, {"slug": "id-conflict", "differs": differs}) if differs else (200, known)
        fresh = {"id": id, "balance": 0, "held": 0, "available": 0, "status": "open", "metadata": {}}
        self.accounts[id] = fresh | asked | {"created_by": "development"}
        return 201, self.accounts[id]

    def post(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        known = self.transfers.get(asked["id"])
        if known:
            differs = [name for name in ("from", "to", "amount", "currency", "metadata") if known[name] != asked[name]]
            if differs:
                return 409, {"slug": "id-conflict", "differs": differs}
            return (422, known["problem"]) if known["status"] == "declined" else (200, known)
        for name in (asked["from"], asked["to"]):
            if name not in self.accounts:
                return 422, {"slug": "account-not-found", "account": name}
        problem = self.problem(asked)
        common = asked | {"captures": None, "reverses": None, "created_by": "development"}
        if problem:
            nothing = {"number": None, "from_balance": None, "to_balance": None}
            told = {"reason": problem["slug"], **{name: problem[name] for name in problem if name != "slug"}}
            self.transfers[asked["id"]] = common | nothing | told | {"status": "declined", "problem": problem}
            return 422, problem
        self.number += 1
        balances = {}
        for side, change in (("from", -asked["amount"]), ("to", asked["amount"])):
            account = self.accounts[asked[side]]
            account["balance"] = account["available"] = balances[f"{side}_balance"] = account["balance"] + change
        self.transfers[asked["id"]] = common | balances | {"number": self.number, "status": "posted"}
        return 201, self.transfers[asked["id"]]

    def problem(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        source, target = self.accounts[asked["from"]], self.accounts[asked["to"]]
        for account in (source, target):
            if account["currency"] != asked["currency"]:
                return {"slug": "currency-mismatch", "account": account["id"]}
        after = source["balance"] - asked["amount"]
        if source["min_balance"] is not None and after < source["min_balance"]:
            return {"slug": "insufficient-funds", "account": source["id"], "available": source["balance"]}
        if after < -HIGHEST:
            return {"slug": "balance-out-of-range", "account": source["id"]}
        if target["balance"] + asked["amount"] > HIGHEST:
            return {"slug": "balance-out-of-range", "account": target["id"]}
        return None

    def batch(self, items: list[dict[str, Any]], atomic: bool) -> tuple[int, Any]:
        after = self.copy()
        results = []
        for index, asked in enumerate(items):
            status, answer = after.post(asked)
            if atomic and status >= 400:
                more = {name: answer[name] for name in answer if name != "slug"}
                return 422, {"slug": "batch-refused", "index": index, "reason": answer["slug"], **more}
            results.append((status, dict(answer)))
        self.accounts, self.transfers, self.number = after.accounts, after.transfers, after.number
        return 200, results


def plain(answer: Any) -> Any:
    """An answer without what only the service can know, and a problem by its slug and members."""
    if "type" in answer:
        told = {
            name: answer[name] for name in answer if name not in ("type", "title", "status", "detail", "request_id")
        }
        return {"slug": answer["type"].removeprefix("/problems/"), **told}
    return {name: value for name, value in answer.items() if name not in ("created_at", "problem")}


class Machine(RuleBasedStateMachine):
    """Sends each request to both and compares."""

    client: Client
    owner: psycopg.Connection[Any]

    @initialize()
    def begin(self) -> None:
        empty(self.owner)
        self.model = Model()
        for id, currency, floor in (
            ("a", "EUR", 0),
            ("b", "EUR", -50),
            ("world", "EUR", None),
            ("dollars", "USD", None),
        ):
            self.open(id, currency, floor)

    @rule(id=names, currency=currencies, floor=st.sampled_from([0, 0, -50, None]))
    def open(self, id: str, currency: str, floor: int | None) -> None:
        reply = self.client.put(f"/v1/accounts/{id}", {"currency": currency, "min_balance": floor})
        self.compare(reply, *self.model.open(id, currency, floor))

    @rule(asked=transfers)
    def put(self, asked: dict[str, Any]) -> None:
        body = {name: value for name, value in asked.items() if name != "id"}
        self.compare(self.client.put(f"/v1/transfers/{asked['id']}", body), *self.model.post(asked))

    @rule(items=st.lists(transfers, min_size=1, max_size=8), atomic=st.booleans())
    def batch(self, items: list[dict[str, Any]], atomic: bool) -> None:
        reply = self.client.batch(*items, atomic=atomic)
        status, expected = self.model.batch(items, atomic)
        assert reply.status == status
        if status != 200:
            self.compare(reply, status, expected)
            return
        results = [(r["status"], plain(r.get("transfer") or r["problem"])) for r in reply.json["results"]]
        assert results == [(status, plain(answer)) for status, answer in expected]

    @rule(id=ids)
    def get(self, id: str) -> None:
        reply = self.client.get(f"/v1/transfers/{id}")
        known = self.model.transfers.get(id)
        self.compare(reply, 200 if known else 404, known or {"slug": "not-found"})

    @rule(id=names)
    def statement(self, id: str) -> None:
        account = self.client.get(f"/v1/accounts/{id}")
        known = self.model.accounts.get(id)
        self.compare(account, 200 if known else 404, known or {"slug": "not-found"})
        entries = self.client.get(f"/v1/accounts/{id}/entries").json.get("entries", [])
        posted = [
            row for row in self.model.transfers.values() if row["status"] == "posted" and id in (row["from"], row["to"])
        ]
        expected = [
            (row["number"], row["id"], -row["amount"], row["from_balance"], row["to"])
            if row["from"] == id
            else (row["number"], row["id"], row["amount"], row["to_balance"], row["from"])
            for row in sorted(posted, key=lambda row: row["number"])
        ]
        keys = ("number", "transfer", "amount", "balance", "counterparty")
        assert [tuple(entry[key] for key in keys) for entry in entries] == expected[:50]

    def compare(self, reply: Reply, status: int, expected: dict[str, Any]) -> None:
        assert (reply.status, plain(reply.json)) == (status, plain(expected))

    def teardown(self) -> None:
        assert not books.faults(self.owner)


SETTINGS = hypothesis.settings(max_examples=40, stateful_step_count=30, deadline=None, database=None)


@pytest.fixture
def machine(client: Client, owner: psycopg.Connection[Any]) -> type[Machine]:
    return type("Connected", (Machine,), {"client": client, "owner": owner})


def test_the_service_does_what_the_model_does(machine: type[Machine]) -> None:
    """Some 1,200 random steps, every member of every answer compared, the books read after each run."""
    run_state_machine_as_test(machine, settings=SETTINGS)


def test_the_comparison_can_fail(machine: type[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that lets the floor be passed is caught."""
    monkeypatch.setattr(Model, "problem", lambda self, asked: None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=hypothesis.settings(SETTINGS, phases=[hypothesis.Phase.generate]))
