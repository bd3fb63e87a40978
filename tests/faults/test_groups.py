"""Commands that are posted in one transaction: each keeps its own result, whatever happens to the others."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from service.contract import LIMITS
from service.ledger import accounts, group, posting, rules
from service.ledger.group import GroupPosting
from service.session import CommitUnknown
from tests.support import broken, waiting
from tests.support.client import Client
from tests.support.groups import FIRST, Post, a_group_waits, post_as_group
from tests.support.proxy import Proxy, confirms_commit
from tests.support.waiting import wait_for, wait_until

SHORT_SECONDS = 1  # a deadline that a test lets pass


def test_commands_that_wait_are_posted_in_one_transaction(own_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have one time, and numbers in the order of their arrival."""
    requests = [partial(own_client.move, f"t{n}") for n in range(5)]
    replies = post_as_group(own_client, monkeypatch, *requests)
    assert [reply.json["number"] for reply in replies] == [2, 3, 4, 5, 6]
    assert len({reply.json["created_at"] for reply in replies}) == 1


def post_different_commands(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.open("empty")
    client.hold("h1", "a", "b", 7)
    client.hold("h2", "a", "b", 8)
    replies = post_as_group(
        client,
        monkeypatch,
        partial(client.move, "t1", amount=5),
        partial(client.move, "t2", "empty", "a", amount=6),
        partial(client.move, "t3", "missing", "a"),
        partial(client.move, FIRST, amount=99),
        partial(client.move, FIRST),
        partial(client.capture, "t4", "h1"),
        partial(client.release, "h2"),
        partial(client.hold, "h3", amount=9),
        partial(client.reverse, "t5", "t1"),
    )
    assert [reply.status for reply in replies] == [201, 422, 422, 409, 200, 201, 200, 201, 201]
    assert [reply.json["id"] for reply in replies if reply.status <= 201] == ["t1", FIRST, "t4", "h2", "h3", "t5"]
    assert client.get("/v1/transfers/t2").json["status"] == "declined"


def test_each_command_of_a_group_gets_its_own_result(own_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Posted, declined, not found, conflict, replay, capture, release, hold, and a reversal of the first."""
    post_different_commands(own_client, monkeypatch)


def test_a_build_that_returns_the_result_of_a_neighbour_fails(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: each command gets the result of the next one."""
    broken.build(monkeypatch, GroupPosting._post_unblocked, "results, strict", "results[1:] + results[:1], strict")
    with pytest.raises(AssertionError):
        post_different_commands(own_client, monkeypatch)


def fail_on(id: str) -> Callable[..., Any]:
    """A decide_transfer with a bug that only this transfer shows."""
    decide_transfer = rules.decide_transfer

    def decide(state: Any, command: Any) -> Any:
        assert command.id != id, "a bug of the rules"
        return decide_transfer(state, command)

    return decide


def post_one_that_fails(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = post_as_group(client, monkeypatch, *(partial(client.move, id) for id in ("t1", "bad", "t2")))
    assert [reply.status for reply in replies] == [201, 500, 201]
    assert [client.get(f"/v1/transfers/{id}").status for id in ("t1", "bad", "t2")] == [200, 404, 200]


def post_one_that_violates_a_constraint(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.open("empty")
    requests = [partial(client.move, "t1"), partial(client.move, "bad", "empty"), partial(client.move, "t2")]
    replies = post_as_group(client, monkeypatch, *requests)
    assert [reply.status for reply in replies] == [201, 500, 201]
    assert [client.get(f"/v1/transfers/{id}").status for id in ("t1", "bad", "t2")] == [200, 404, 200]


def test_a_bug_of_the_rules_fails_only_its_own_command(own_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is rolled back, and each of its commands is posted alone."""
    monkeypatch.setattr(rules, "decide_transfer", fail_on("bad"))
    post_one_that_fails(own_client, monkeypatch)


def test_a_violated_constraint_fails_only_its_own_command(own_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database refuses what a build without rules accepts."""
    monkeypatch.setattr(rules, "find_transfer_violation", lambda *_: None)
    post_one_that_violates_a_constraint(own_client, monkeypatch)


@pytest.mark.parametrize("post", [post_one_that_fails, post_one_that_violates_a_constraint])
def test_a_build_that_fails_the_whole_group_is_found(
    own_client: Client, monkeypatch: pytest.MonkeyPatch, post: Callable[..., None]
) -> None:
    """Broken on purpose: the commands of a failed group are not posted alone."""
    monkeypatch.setattr(rules, "decide_transfer", fail_on("bad"))
    broken.build(monkeypatch, GroupPosting._post_group, "is_fault_of_one and", "False and")
    with pytest.raises(AssertionError):
        post(own_client, monkeypatch)


def test_a_command_whose_deadline_passes_before_its_group_is_not_applied(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response says so, and the next group does not post it."""
    request = partial(own_client.move, "late")
    with a_group_waits(own_client, monkeypatch, request, deadline_seconds=SHORT_SECONDS) as (late,):
        reply = late.result()
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "deadline-exceeded", "not_applied")
    assert own_client.move("next").json["number"] == 2
    assert own_client.get("/v1/transfers/late").status == 404


def exceed_the_deadline_in_a_group(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is committed, but two deadlines pass before its leader, the newest command, gets the result."""
    go_on = threading.Event()

    def commit_and_wait(post: Post) -> Post:
        def post_late(*arguments: Any, **options: Any) -> Any:
            results = post(*arguments, **options)
            wait_for(go_on)
            return results

        return post_late

    requests = [partial(client.move, id) for id in ("t1", "t2", "newest")]
    options: dict[str, Any] = {"deadline_seconds": SHORT_SECONDS, "post_group": commit_and_wait}
    with a_group_waits(client, monkeypatch, *requests, **options) as calls:
        pass
    replies = [call.result() for call in calls[:2]]
    go_on.set()
    assert [(reply.slug, reply.json["outcome"]) for reply in replies] == [("deadline-exceeded", "unknown")] * 2
    assert calls[2].result().status == 201
    assert [client.move(id).status for id in ("t1", "t2", "newest")] == [200, 200, 200]


def test_a_command_whose_deadline_passes_in_its_group_is_unknown(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be committed. Its repeat finds it."""
    exceed_the_deadline_in_a_group(own_client, monkeypatch)


def test_a_build_that_calls_a_posted_command_not_applied_fails(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the outcome stays `not_applied`, although the group has decided the command."""
    broken.build(monkeypatch, group._Entry.finish_late, 'self.outcome = "unknown"', "pass")
    with pytest.raises(AssertionError):
        exceed_the_deadline_in_a_group(own_client, monkeypatch)


def test_a_lost_confirmation_posts_no_command_of_the_group_twice(
    proxied_client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group is repeated on another connection, and finds its transfers."""
    requests = [partial(proxied_client.move, f"t{n}") for n in range(3)]
    with a_group_waits(proxied_client, monkeypatch, *requests) as calls:
        confirmed: list[bytes] = []

        def confirms_the_group(data: bytes) -> bool:  # the first COMMIT is that of the posting before
            if confirms_commit(data):
                confirmed.append(data)
            return len(confirmed) == 2

        proxy.cut_to_client, proxy.cuts = confirms_the_group, 1
    assert [call.result().status for call in calls] == [200, 200, 200]
    assert proxied_client.balance("b") == 4


LOST = CommitUnknown(psycopg.OperationalError("lost"))


def lose_a_commit_and_find_the_account_locked(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception = LOST
) -> None:
    """The group is committed, its confirmation is lost, and the retry does not get the account."""
    attempts = iter([True])

    def lose_then_wait(post: Post) -> Post:
        def post_badly(*arguments: Any, **options: Any) -> Any:
            if next(attempts, False):
                post(*arguments, **options)
                raise error
            raise posting.AccountsLocked

        return post_badly

    monkeypatch.setattr(accounts, "find_locked", lambda connection, ids: frozenset(ids))
    options: dict[str, Any] = {"deadline_seconds": SHORT_SECONDS, "post_group": lose_then_wait}
    replies = post_as_group(client, monkeypatch, *(partial(client.move, id) for id in ("t1", "t2")), **options)
    assert [(reply.slug, reply.json["outcome"]) for reply in replies] == [("deadline-exceeded", "unknown")] * 2


def test_an_unknown_outcome_stays_unknown_if_the_retry_does_not_get_the_account(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands wait apart, and their first attempt may have been applied."""
    lose_a_commit_and_find_the_account_locked(own_client, monkeypatch)


def test_after_a_bug_behind_the_commit_the_outcome_is_unknown(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands are posted alone, and may have been applied before."""
    lose_a_commit_and_find_the_account_locked(own_client, monkeypatch, AssertionError("a bug after COMMIT"))


def test_a_build_that_forgets_the_lost_commit_fails(own_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: the outcome stays `not_applied`, although COMMIT was sent."""
    broken.build(monkeypatch, GroupPosting._post_unblocked, '"unknown" if', "entry.outcome if")
    with pytest.raises(AssertionError):
        lose_a_commit_and_find_the_account_locked(own_client, monkeypatch)


def end_the_thread_of_the_leader(
    client: Client, monkeypatch: pytest.MonkeyPatch, deadline_seconds: int = LIMITS.request_deadline_seconds
) -> None:
    """gunicorn ends a thread that has not finished in time after SIGTERM. The leader is the newest command."""
    attempts = iter([True])

    def end_the_first(post: Post) -> Post:
        def post_or_end(*arguments: Any, **options: Any) -> Any:
            if next(attempts, False):
                raise SystemExit("ended")
            return post(*arguments, **options)

        return post_or_end

    requests = [partial(client.move, id) for id in ("t1", "t2", "newest")]
    options: dict[str, Any] = {"deadline_seconds": deadline_seconds, "post_group": end_the_first}
    with a_group_waits(client, monkeypatch, *requests, **options) as calls:
        pass
    assert [call.result().status for call in calls[:2]] == [201, 201]
    with pytest.raises(SystemExit):
        calls[2].result()
    assert client.move("later").status == 201


def test_the_commands_of_a_leader_that_ends_are_posted_by_the_next(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other command of its group is lost, and later commands are posted."""
    end_the_thread_of_the_leader(own_client, monkeypatch)


@pytest.mark.parametrize(
    ("original", "replacement"),
    [
        pytest.param("entry.line.waiting.append(entry)", "pass", id="entries are lost"),
        pytest.param("line.is_led = False", "pass", id="never hands on"),
    ],
)
def test_a_build_that_loses_the_commands_of_a_leader_fails(
    own_client: Client, monkeypatch: pytest.MonkeyPatch, original: str, replacement: str
) -> None:
    """Broken on purpose: the other commands of the group wait until their deadline."""
    broken.build(monkeypatch, GroupPosting._hand_on, original, replacement)
    with pytest.raises(AssertionError):
        end_the_thread_of_the_leader(own_client, monkeypatch, SHORT_SECONDS)


class EndedWait(threading.Event):
    """An event that ends the waiting thread with SystemExit when it is set, or when `end` is set."""

    def __init__(self, end: threading.Event) -> None:
        super().__init__()
        self._end = end

    def wait(self, timeout: float | None = None) -> bool:
        wait_until(lambda: self.is_set() or self._end.is_set(), "the thread is ended")
        raise SystemExit("ended")


def end_a_thread_that_waits(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    *,
    before_its_group: bool,
    deadline_seconds: int = LIMITS.request_deadline_seconds,
) -> None:
    """The newest command, which would lead, is ended while it waits, or when it is appointed."""
    line, end = client.application.dependencies.group_posting._main, threading.Event()
    requests = [partial(client.move, id) for id in ("t1", "t2", "newest")]
    with a_group_waits(client, monkeypatch, *requests, deadline_seconds=deadline_seconds) as calls:
        changed, line.waiting[-1].changed = line.waiting[-1].changed, EndedWait(end)
        changed.set()  # the thread goes on to the other event
        if before_its_group:
            end.set()
            wait_until(lambda: len(line.waiting) == 2, "the command is withdrawn")
    assert [call.result().status for call in calls[:2]] == [201, 201]
    with pytest.raises(SystemExit):
        calls[2].result()
    assert client.move("later").status == 201
    assert client.get("/v1/transfers/newest").status == 404


@pytest.mark.parametrize("before_its_group", [True, False])
def test_a_thread_that_ends_while_it_waits_does_not_lead(
    own_client: Client, monkeypatch: pytest.MonkeyPatch, before_its_group: bool
) -> None:
    """gunicorn's gevent worker can end a greenlet at any wait. Its command is not applied, and the others are."""
    end_a_thread_that_waits(own_client, monkeypatch, before_its_group=before_its_group)


@pytest.mark.parametrize(
    ("original", "before_its_group"),
    [("self._withdraw(entry)", True), ("self._hand_on(entry.line, entry.leads)", False)],
)
def test_a_build_in_which_a_thread_that_ended_leads_fails(
    own_client: Client, monkeypatch: pytest.MonkeyPatch, original: str, before_its_group: bool
) -> None:
    """Broken on purpose: the leader of the line does not run."""
    broken.build(monkeypatch, GroupPosting.post, original, "pass")
    monkeypatch.setattr(waiting, "LIMIT_SECONDS", SHORT_SECONDS)
    with pytest.raises(AssertionError):
        end_a_thread_that_waits(
            own_client, monkeypatch, before_its_group=before_its_group, deadline_seconds=SHORT_SECONDS
        )


def test_a_group_has_a_limit(own_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """More commands than GROUP_COMMANDS are posted by several groups, in their order."""
    monkeypatch.setattr(group, "GROUP_COMMANDS", 2)
    replies = post_as_group(own_client, monkeypatch, *(partial(own_client.move, f"t{n}") for n in range(5)))
    assert [reply.json["number"] for reply in replies] == [2, 3, 4, 5, 6]
    assert len({reply.json["created_at"] for reply in replies}) == 3
