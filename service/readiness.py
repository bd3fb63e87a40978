"""Whether this process should receive requests: a probe of the database, outside the pool, at most once a second."""

import threading
import time

import psycopg

from service import database, logs, metrics
from service.migrate import files, history

PROBE_EVERY_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 3.0  # after connecting, which may take 3 s; else a probe of a stuck server does not end
MISSES_UNTIL_UNREADY = 3  # one lost packet must not make all replicas unready
_UNREADY = {"database": False, "writable": False, "schema": False}


class Readiness:
    """The checks of the last probe. A full pool does not change them: it is no failure of the database."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._needed = len(files.read_files())
        self._lock = threading.Lock()
        self._probed_at = float("-inf")
        self._misses = 0
        self._checks = _UNREADY  # until the first good probe
        metrics.SCHEMA_VERSION.labels("code").set(self._needed)

    def checks(self) -> dict[str, bool]:
        """Each check by name. If the last probe is old, one caller probes; the others get the last checks."""
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() >= self._probed_at + PROBE_EVERY_SECONDS:
                    self._probe()
                    self._probed_at = time.monotonic()
            finally:
                self._lock.release()
        return self._checks

    def _probe(self) -> None:
        try:
            with database.connect(self._url) as connection:
                connection.deadline = time.monotonic() + PROBE_TIMEOUT_SECONDS
                database.configure(connection)
                version, min_code, writable = history.read_schema_state(connection)
        except psycopg.Error as error:
            self._misses += 1
            if self._misses >= MISSES_UNTIL_UNREADY:
                self._checks = _UNREADY
            name = type(error).__name__
            logs.log.warning("the probe of the database failed: %s", name, extra={"event": "probe.missed"})
        else:
            self._misses = 0
            self._checks = {"database": True, "writable": writable, "schema": min_code <= self._needed <= version}
            metrics.SCHEMA_VERSION.labels("database").set(version)
