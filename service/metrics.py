"""Every metric of the service. Labels come from the code, the route table and slugs, never from input."""

from collections import Counter as Counts
from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import VERSION

# Names and labels of the OpenTelemetry HTTP conventions; a method that no standard names is `_OTHER`.
REQUEST_SECONDS = Histogram(
    "http_server_request_duration_seconds",
    "Time from the request's arrival in the application to its answer.",
    ["http_request_method", "http_route", "http_response_status_code"],
)
ACTIVE_REQUESTS = Gauge("http_server_active_requests", "Requests in hand.")
SHED = Counter("ledger_requests_shed_total", "Requests refused because too much was in flight.", ["reason"])
TRANSFERS = Counter("ledger_transfers_total", "Transfers written.", ["status", "reason"])
HOLDS = Counter("ledger_holds_total", "Holds placed, captured, released or declined.", ["status", "reason"])
POSTING_SIZE = Histogram(
    "ledger_posting_batch_size", "Requests decided in one posting.", buckets=(1, 2, 5, 10, 50, 100, 200, 500, 1000)
)
POSTING_SECONDS = Histogram("ledger_posting_seconds", "Time of one posting, from BEGIN to the answer of COMMIT.")
COMMIT_UNKNOWN = Counter("ledger_commit_unknown_total", "Connections lost after COMMIT was sent and before its answer.")
POOL_DRAINS = Counter("ledger_pool_drains_total", "Times that all idle database connections were replaced.")
SCHEMA_VERSION = Gauge("ledger_schema_version", "Migration number.", ["which"])  # code, database
BUILD_INFO = Gauge("ledger_build_info", "Always 1; the label says what runs.", ["version"])
BUILD_INFO.labels(VERSION).set(1)

KNOWN_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class PoolCollector(Collector):
    """The figures of the open pools, read when they are asked for. A process has one pool; tests have more."""

    def collect(self) -> Iterator[Metric]:
        total = sum((Counts(stats()) for stats in OPEN_POOLS), Counts[str]())
        in_use = total["pool_size"] - total["pool_available"]
        yield GaugeMetricFamily("ledger_pool_size", "Database connections.", total["pool_size"])
        yield GaugeMetricFamily("ledger_pool_in_use", "Database connections at work.", in_use)
        yield GaugeMetricFamily("ledger_pool_waiting", "Requests waiting for one.", total["requests_waiting"])
        yield CounterMetricFamily("ledger_pool_wait_seconds", "Time waited for one.", total["requests_wait_ms"] / 1000)
        yield CounterMetricFamily("ledger_pool_timeouts", "Requests that waited in vain.", total["requests_errors"])


OPEN_POOLS: list[Callable[[], dict[str, int]]] = []
REGISTRY.register(PoolCollector())
