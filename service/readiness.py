"""Whether this process should get traffic: one shared look at the database, at most once a second, outside the pool."""

import threading
import time

import psycopg

from service import database, logs, metrics
from service.migrate import files, history

PROBE_EVERY_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 3.0  # as long as connecting may take; else a server that is stuck is never missed
MISSES_UNTIL_UNREADY = 3  # one lost packet must not empty a whole fleet
_UNREADY = {"database": False, "writable": False, "schema": False}


class Readiness:
    """The last probe's findings. A full pool does not show here: it means work, not trouble."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._needed = len(files.read_files())
        self._lock = threading.Lock()
        self._probed_at = float("-inf")
        self._misses = 0
        self._findings = _UNREADY  # until the first good probe
        metrics.SCHEMA_VERSION.labels("code").set(self._needed)

    def findings(self) -> dict[str, bool]:
        """Each check by name. One caller probes when the last probe is old; the others get what it found before."""
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() >= self._probed_at + PROBE_EVERY_SECONDS:
                    self._probe()
                    self._probed_at = time.monotonic()
            finally:
                self._lock.release()
        return self._findings

    def _probe(self) -> None:
        try:
            with database.connect(self._url) as connection:
                connection.deadline = time.monotonic() + PROBE_TIMEOUT_SECONDS
                database.configure(connection)
                version, min_code, writable = history.look(connection)
        except psycopg.Error as error:
            self._misses += 1
            if self._misses >= MISSES_UNTIL_UNREADY:
                self._findings = _UNREADY
            name = type(error).__name__
            logs.log.warning("the database did not answer the probe: %s", name, extra={"event": "probe.missed"})
        else:
            self._misses = 0
            self._findings = {"database": True, "writable": writable, "schema": min_code <= self._needed <= version}
            metrics.SCHEMA_VERSION.labels("database").set(version)
