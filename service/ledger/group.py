"""Group posting: single commands that wait at the same moment are posted in one transaction.

Commits are serial, because each keeps the journal row locked until it is flushed. The commands of a group share one
flush. A command that is alone is posted at once.

Each command waits in a thread of its own, which is a greenlet in the service. One of these threads leads: it posts its
whole group, and then appoints the next leader. The leader is the one with the latest deadline of its group, so the
group can wait for the database as long as any of its commands.

If another session keeps an account locked, or if thousands of holds of an account have expired, the commands that need
the account move to a second line, so that the others do not wait for them. The second line works in the same way, at
the same time, on another connection.

An entry is waiting, then in a group (`taken_at`), then decided (`is_decided`), and has a result at the end. It can go
back from a group to waiting, but an entry with a result never gets another one.
"""

import threading
import time
from collections.abc import Callable, Collection
from functools import partial

import psycopg

from service import logs, metrics
from service.contract import LIMITS
from service.database import BeginAgain, Database
from service.errors import Refusal
from service.ledger import accounts, clock, posting
from service.ledger.types import Command, Result
from service.session import Connection

GROUP_COMMANDS = 256
GROUP_LOCK_MILLISECONDS = 50  # how long a group waits for the lock of each of its accounts
APART_LOCK_MILLISECONDS = 500  # the same in the second line
LOGGED_ACCOUNTS = 10  # of those that a log line names


class _Entry:
    """A command that waits for its result."""

    def __init__(self, command: Command, line: "_Line") -> None:
        self.command = command
        self.line = line
        self.entered_at = time.monotonic()
        self.deadline = self.entered_at + LIMITS.request_deadline_seconds
        self.taken_at: float | None = None  # None: it is in no group
        self.is_decided = False  # its group decides and commits: it may be applied
        self.leads: list[_Entry] = []  # the group that it has to post
        self.blocked_by: frozenset[str] = frozenset()  # the accounts that its last group did not get
        self.outcome = "not_applied"  # "unknown" after a COMMIT without a response
        self.result: Result | Exception | None = None
        self.changed = threading.Event()  # it has a result, or it leads a group

    def finish(self, result: Result | Exception) -> None:
        """Set the result, unless it has one. A refusal gets the outcome of this entry."""
        if isinstance(result, Refusal) and "outcome" in result.members:
            result = Refusal(result.slug, result.detail, **{**result.members, "outcome": self.outcome})
        self.result = self.result or result
        self.changed.set()

    def finish_late(self) -> None:
        """End without a result: the deadline has passed, or the thread is being ended."""
        if self.is_decided:
            self.outcome = "unknown"
        detail = "The database did not respond within the time limit."
        self.finish(Refusal("deadline-exceeded", detail, outcome=self.outcome))


class _Line:
    """Entries in the order of their arrival. At most one group of them is being posted."""

    def __init__(self, lock_milliseconds: int) -> None:
        self.lock_milliseconds = lock_milliseconds
        self.waiting: list[_Entry] = []
        self.is_led = False

    def appoint_leader(self) -> None:
        """Take the next group and wake its leader, unless a group is being posted."""
        if self.is_led or not self.waiting:
            return
        self.is_led = True
        group, self.waiting = self.waiting[:GROUP_COMMANDS], self.waiting[GROUP_COMMANDS:]
        for entry in group:
            entry.taken_at, entry.blocked_by = time.monotonic(), frozenset()
        leader = max(group, key=lambda entry: entry.deadline)
        leader.leads = group
        leader.changed.set()


class GroupPosting:
    """Posts single commands, each together with others that wait at the same moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()  # for the lines and for the attributes of their entries
        self._main = _Line(GROUP_LOCK_MILLISECONDS)
        self._apart = _Line(APART_LOCK_MILLISECONDS)
        self._blocked: frozenset[str] = frozenset()  # accounts whose commands go to the second line at once

    def post(self, command: Command) -> Result:
        """Post the command within the request's deadline.

        Raises the Refusal of the command, also if it was stored as declined, or what `Database.run` raises.
        """
        entry = _Entry(command, self._main)
        with self._lock:
            self._main.waiting.append(entry)
            self._main.appoint_leader()
        try:
            has_led, result = self._wait(entry)
        except BaseException:  # this thread is being ended
            self._withdraw(entry)
            if entry.leads:  # it was appointed and has not begun to lead
                entry.finish_late()
                self._hand_on(entry.line, entry.leads)
            raise
        now = time.monotonic()
        logs.add_time("queue_ms", (entry.taken_at or now) - entry.entered_at)
        if not has_led:  # `Database.run` has added the time of a leader
            logs.add_time("db_ms", now - (entry.taken_at or now))
        if isinstance(result, Exception):
            raise result
        if result.refusal:
            raise result.refusal
        return result

    def _wait(self, entry: _Entry) -> tuple[bool, Result | Exception]:
        """Wait for the result, and lead when appointed. Returns whether the entry has led, and its result."""
        has_led = False
        while (result := entry.result) is None:
            if not entry.changed.wait(max(entry.deadline - time.monotonic(), 0)):
                self._withdraw(entry)
            elif entry.leads:
                has_led = True
                self._lead(entry)
        return has_led, result

    def _withdraw(self, entry: _Entry) -> None:
        """End an entry before it has a result. A group that has not decided it yet leaves it out."""
        with self._lock:
            if entry.leads:  # it was appointed before this thread got the lock: its group needs it
                return
            if entry.taken_at is None:
                entry.line.waiting.remove(entry)
            entry.finish_late()

    def _lead(self, leader: _Entry) -> None:
        """Post the group of this leader, and then appoint the next leaders, also if this thread is being ended."""
        group, leader.leads = leader.leads, []
        leader.changed.clear()
        try:
            self._post_group(leader.line, group, leader.deadline)
        except BaseException:  # this thread is being ended, so it must not lead again
            leader.finish_late()
            raise
        finally:
            self._hand_on(leader.line, group)

    def _hand_on(self, line: _Line, group: list[_Entry]) -> None:
        """Return the entries without a result to a line, and appoint the next leaders."""
        with self._lock:
            returned = [entry for entry in group if entry.result is None]
            if line is self._apart:  # those that wait there may wait for an account that this group found free
                returned, line.waiting = line.waiting + returned, []
            for entry in returned:
                entry.taken_at = None
                entry.line = self._apart if entry.blocked_by & self._blocked else self._main
                entry.line.waiting.append(entry)
            if line is self._apart and not line.waiting:
                self._blocked = frozenset()
            line.is_led = False
            self._main.appoint_leader()
            self._apart.appoint_leader()

    def _post_group(self, line: _Line, group: list[_Entry], deadline: float) -> None:
        """Post the entries together. If an error may be the fault of one of them, post each of them alone."""
        try:
            self._database.run(partial(self._post_unblocked, line, group), deadline)
        except Exception as error:
            unposted = [entry for entry in group if entry.result is None and not entry.blocked_by]
            # A bug, or a violated constraint; if it was retried in vain, it is the cause of a Refusal.
            is_fault_of_one = not isinstance(error, Refusal) or isinstance(error.__cause__, psycopg.IntegrityError)
            for entry in unposted:
                entry.is_decided = False  # `outcome` has whether an attempt may have been applied
            for entry in unposted:
                if is_fault_of_one and len(unposted) > 1:
                    self._post_group(line, [entry], deadline)
                else:
                    entry.finish(error)

    def _post_unblocked(self, line: _Line, group: list[_Entry], connection: Connection) -> None:
        """Post those entries that do not have to wait for an account, and mark the others."""
        if line is self._main and self._blocked:
            _mark_blocked(connection, group, lambda *_: self._blocked)
        entries = [entry for entry in group if entry.result is None and not entry.blocked_by]
        if not entries:
            return
        for entry in entries:
            entry.is_decided = False
        commands = [entry.command for entry in entries]
        try:
            free = self._wait_for_blocked(connection, commands) if line is self._apart else frozenset()
            choose = partial(self._choose, entries)
            results = posting.post(
                connection, commands, atomic=False, lock_milliseconds=line.lock_milliseconds, choose=choose
            )
        except posting.AccountsLocked:
            connection.execute("ROLLBACK")
            self._block(_mark_blocked(connection, entries, accounts.find_locked))
            raise BeginAgain from None
        except BeginAgain:
            if line is self._main:  # the others do not wait for the expired holds that are left
                self._block(_mark_blocked(connection, entries, clock.find_expired))
            raise
        except psycopg.Error:
            raise  # nothing was applied
        except BaseException:  # CommitUnknown, the end of this thread, or a bug after COMMIT
            for entry in entries:
                entry.outcome = "unknown" if entry.is_decided else entry.outcome
            raise
        with self._lock:
            self._blocked -= free
        for entry, result in zip((entry for entry in entries if entry.is_decided), results, strict=True):
            entry.finish(result)

    def _wait_for_blocked(self, connection: Connection, commands: list[Command]) -> frozenset[str]:
        """Wait for the blocked accounts of the commands, and return them.

        A posting that waits for them would keep its other accounts locked meanwhile.
        """
        ids = frozenset().union(*posting.find_accounts(connection, commands)) & self._blocked
        posting.wait_for_accounts(connection, ids, APART_LOCK_MILLISECONDS)
        return ids

    def _block(self, ids: frozenset[str]) -> None:
        """Let new commands on these accounts go to the second line, until it has posted one on the account."""
        with self._lock:
            newly_blocked = ids - self._blocked
            self._blocked |= ids
        if newly_blocked:
            metrics.BLOCKED_ACCOUNTS.inc(len(newly_blocked))
            extra = {"event": "posting.blocked", "accounts": sorted(newly_blocked)[:LOGGED_ACCOUNTS]}
            logs.log.warning("postings wait for accounts that are not free", extra=extra)

    def _choose(self, entries: list[_Entry]) -> list[Command]:
        """Mark the entries without a result as decided, and return their commands. From now on they may be applied."""
        with self._lock:
            for entry in entries:
                entry.is_decided = entry.result is None
            return [entry.command for entry in entries if entry.is_decided]


def _mark_blocked(
    connection: Connection, entries: list[_Entry], find: Callable[[Connection, Collection[str]], frozenset[str]]
) -> frozenset[str]:
    """Set `blocked_by` of each entry to those of its accounts that `find` returns, and return them all."""
    ids = posting.find_accounts(connection, [entry.command for entry in entries])
    found = find(connection, frozenset().union(*ids))
    for entry, accounts_of_entry in zip(entries, ids, strict=True):
        entry.blocked_by = accounts_of_entry & found
    return found
