"""Calls in threads. Their results and errors reach the test, and every wait for them has a limit."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from tests.support.waiting import LIMIT_SECONDS, join

T = TypeVar("T")

THREADS = 8


class Call(threading.Thread, Generic[T]):
    """A function call in a thread, which starts at once. A call that hangs does not keep the process alive."""

    def __init__(self, function: Callable[[], T], name: str | None = None) -> None:
        super().__init__(name=name, daemon=True)
        self._function = function
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """Wait for the end of the call. Returns what the function returned, or raises what it raised."""
        join(self)
        if self._error:
            raise self._error
        return self._results[0]


def together(function: Callable[[int], list[T]]) -> list[T]:
    """Call the function with 0 to THREADS - 1, each in a thread; all start at the same time. The results as one list.

    The names of the threads are thread-0, thread-1 …
    """
    start = threading.Barrier(THREADS)

    def call(number: int) -> list[T]:
        start.wait(LIMIT_SECONDS)
        return function(number)

    calls = [Call(partial(call, number), name=f"thread-{number}") for number in range(THREADS)]
    return [result for each in calls for result in each.result()]


def number_of_thread() -> int | None:
    """The number of the current thread, if `together` started it."""
    prefix, _, number = threading.current_thread().name.partition("-")
    return int(number) if prefix == "thread" and number.isdigit() else None
