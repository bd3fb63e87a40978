"""Every metric of the service. Label values come from the code, the route table and slugs, never from input."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import VERSION, drain

# Names and labels follow the OpenTelemetry HTTP conventions. A method that is not in KNOWN_METHODS is `_OTHER`.
REQUEST_SECONDS = Histogram(
    "http_server_request_duration_seconds",
    "Time from the request's arrival in the application to its response.",
    ["http_request_method", "http_route", "http_response_status_code"],
)
ACTIVE_REQUESTS = Gauge("http_server_active_requests", "Requests in progress.")
SHED = Counter(
    "ledger_requests_shed_total", "Requests refused: too many in progress, or no free database connection.", ["reason"]
)
TRANSFERS = Counter("ledger_transfers_total", "Transfers written.", ["status", "reason"])
HOLDS = Counter("ledger_holds_total", "Holds placed, captured, released or declined.", ["status", "reason"])
POSTING_SIZE = Histogram(
    "ledger_posting_batch_size", "Commands decided in one posting.", buckets=(1, 2, 5, 10, 50, 100, 200, 500, 1000)
)
POSTING_SECONDS = Histogram(
    "ledger_posting_seconds", "Time of one posting, from BEGIN to the response to COMMIT or ROLLBACK."
)
BLOCKED_ACCOUNTS = Counter(
    "ledger_blocked_accounts_total",
    "Times that an account was locked or had thousands of expired holds, so that postings on it waited apart.",
)
COMMIT_UNKNOWN = Counter(
    "ledger_commit_unknown_total",
    "Commits whose connection was lost before the response, or that did not wait for the synchronous standby.",
)
CONSTRAINT_VIOLATIONS = Counter(
    "ledger_constraint_violations_total", "Writes that the rules accepted and a database constraint refused: a bug."
)
POOL_DRAINS = Counter("ledger_pool_drains_total", "Times that all idle database connections were replaced.")
SCHEMA_VERSION = Gauge("ledger_schema_version", "Migration number.", ["which"])  # code, database
CLOCK_AHEAD_SECONDS = Gauge(
    "ledger_clock_ahead_seconds", "Clock of the database minus clock of the service, at the last probe."
)
DRAINING = Gauge("ledger_draining", "1 while the process drains before its stop, else 0.")
DRAINING.set_function(drain.is_active)
BUILD_INFO = Gauge("ledger_build_info", "Always 1; the label is the running version.", ["version"])
BUILD_INFO.labels(VERSION).set(1)

KNOWN_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class PoolCollector(Collector):
    """The figures of the connection pool, read at each scrape. `stats` is set by the pool's owner."""

    stats: Callable[[], Mapping[str, int]] = staticmethod(dict)

    def collect(self) -> Iterator[Metric]:
        pool = {"pool_size": 0, "pool_available": 0, "requests_waiting": 0, "requests_wait_ms": 0, "requests_errors": 0}
        pool |= self.stats()
        in_use = pool["pool_size"] - pool["pool_available"]
        yield GaugeMetricFamily("ledger_pool_size", "Database connections.", pool["pool_size"])
        yield GaugeMetricFamily("ledger_pool_in_use", "Database connections in use.", in_use)
        yield GaugeMetricFamily("ledger_pool_waiting", "Requests that wait for a connection.", pool["requests_waiting"])
        waited_seconds = pool["requests_wait_ms"] / 1000
        yield CounterMetricFamily("ledger_pool_wait_seconds", "Time waited for connections.", waited_seconds)
        yield CounterMetricFamily("ledger_pool_timeouts", "Requests that got no connection.", pool["requests_errors"])


class LogCollector(Collector):
    """The lines that were not logged. `dropped` is set by the writer of the log."""

    dropped: Callable[[], int] = staticmethod(int)

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("ledger_log_lines_dropped", "Log lines that were not written.", self.dropped())


POOL = PoolCollector()
LOG_LINES = LogCollector()
REGISTRY.register(POOL)
REGISTRY.register(LOG_LINES)
