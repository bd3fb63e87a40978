"""Requests that form one group: the posting before them is held back until all of them wait."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from service.contract import LIMITS
from service.ledger import group, posting
from tests.support.client import Client, Reply
from tests.support.threads import Call
from tests.support.waiting import wait_for, wait_until

Post = Callable[..., Any]
FIRST = "first"  # the id of the transfer that is held back, from `a` to `b`


@contextmanager
def a_group_waits(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    *requests: Callable[[], Reply],
    deadline_seconds: int = LIMITS.request_deadline_seconds,
    post_group: Callable[[Post], Post] = lambda original: original,
) -> Iterator[list[Call[Reply]]]:
    """During the block the requests wait, in this order; after it, they are posted as one group.

    `deadline_seconds` is theirs. `post_group` replaces `posting.post` for them, and gets the original.
    """
    line = client.application.dependencies.group_posting._main
    original = posting.post
    is_held_back, release = threading.Event(), threading.Event()

    def post(*arguments: Any, **options: Any) -> Any:
        if is_held_back.is_set():
            return post_group(original)(*arguments, **options)
        is_held_back.set()
        wait_for(release)
        return original(*arguments, **options)

    monkeypatch.setattr(posting, "post", post)
    first = Call(partial(client.move, FIRST))
    wait_for(is_held_back)
    limits = dataclasses.replace(LIMITS, request_deadline_seconds=deadline_seconds)
    monkeypatch.setattr(group, "LIMITS", limits)
    calls: list[Call[Reply]] = []
    for number, request in enumerate(requests, start=1):
        calls.append(Call(request))
        wait_until(partial(is_waiting, line, number), f"{number} requests wait")
    yield calls
    release.set()
    assert first.result().status == 201


def is_waiting(line: group._Line, count: int) -> bool:
    return len(line.waiting) == count


def post_as_group(
    client: Client, monkeypatch: pytest.MonkeyPatch, *requests: Callable[[], Reply], **options: Any
) -> list[Reply]:
    """The responses to requests that are posted as one group, as `a_group_waits` does it."""
    with a_group_waits(client, monkeypatch, *requests, **options) as calls:
        pass
    return [call.result() for call in calls]
