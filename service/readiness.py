"""Whether this process should receive requests: a probe of the database, outside the pool, at most once a second.

- database: it responds. pool: the pool has a connection.
- writable: it accepts writes. schema: it is that of this code.
- durable: it keeps an acknowledged commit. clock: it is not too far ahead of the clock of this process.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg

from service import logs, metrics, session
from service.migrate import files, history

PROBE_EVERY_SECONDS = 1.0
# After connecting, which may take 2 s for each host. Else a probe of a server that does not respond does not end.
PROBE_TIMEOUT_SECONDS = 3.0
# Longer than a probe of three hosts that do not respond. Only name resolution has no time limit of its own.
PROBE_HANGS_SECONDS = 10.0
MISSES_UNTIL_UNREADY = 3  # one lost packet must not make all replicas unready
_UNREADY = dict.fromkeys(("database", "pool", "writable", "schema", "durable", "clock"), False)


class Readiness:
    """The checks of the last probe. A full pool does not change them: it is no failure of the database.

    `has_connection` says whether the pool has one. With `allow_data_loss`, `durable` is always true.
    """

    def __init__(self, database_url: str, has_connection: Callable[[], bool], *, allow_data_loss: bool) -> None:
        self._url = database_url
        self._has_connection = has_connection
        self._allow_data_loss = allow_data_loss
        self._needed = len(files.read_files())
        self._lock = threading.Lock()
        self._probed_at = float("-inf")
        self._probing_since = float("inf")
        self._misses = 0
        self._checks = _UNREADY  # until the first good probe
        metrics.SCHEMA_VERSION.labels("code").set(self._needed)

    def checks(self) -> dict[str, bool]:
        """Each check by name. If the last probe is old, one caller probes; the others get the last checks."""
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() >= self._probed_at + PROBE_EVERY_SECONDS:
                    self._probing_since = time.monotonic()
                    self._probe()
                    self._probed_at = time.monotonic()
            finally:
                self._probing_since = float("inf")
                self._lock.release()
        elif time.monotonic() > self._probing_since + PROBE_HANGS_SECONDS:
            return _UNREADY
        return self._checks

    def _probe(self) -> None:
        try:
            with session.connect(self._url) as connection:
                connection.deadline = time.monotonic() + PROBE_TIMEOUT_SECONDS
                session.configure(connection)
                state = history.read_schema_state(connection)
                is_durable = self._allow_data_loss or not session.find_unsafe_settings(connection)
        except psycopg.Error as error:
            self._miss(_UNREADY, f"the probe of the database failed: {type(error).__name__}")
            return
        metrics.SCHEMA_VERSION.labels("database").set(state.version)
        seconds_ahead = (state.time - datetime.now(UTC)).total_seconds()
        metrics.CLOCK_AHEAD_SECONDS.set(seconds_ahead)
        checks = {
            "database": True,
            "pool": True,
            "writable": state.is_writable,
            "schema": state.min_code <= self._needed <= state.version,
            "durable": is_durable,
            "clock": seconds_ahead <= session.CLOCK_MAX_AHEAD_SECONDS,
        }
        if self._has_connection():
            self._misses, self._checks = 0, checks
        else:
            self._miss(checks | {"pool": False}, "the pool of database connections has none")

    def _miss(self, checks: dict[str, bool], message: str) -> None:
        """After MISSES_UNTIL_UNREADY in a row, these are the checks."""
        self._misses += 1
        if self._misses >= MISSES_UNTIL_UNREADY:
            self._checks = checks
        logs.log.warning(message, extra={"event": "probe.missed"})
