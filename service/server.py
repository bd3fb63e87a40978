"""Builds the application, and runs it under gunicorn: the settings with their reasons, and JSON log lines."""

import gc
import resource
import signal
from typing import Any

import gunicorn.glogging
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from service import drain, logs
from service.config import Config
from service.database import Database
from service.http.app import Application
from service.http.request import Dependencies
from service.ledger.group import GroupPosting
from service.ledger.posting import RETRIED_CONSTRAINTS
from service.readiness import Readiness
from service.worker import CooperativeWorker

MIN_CONNECTIONS = 100  # with fewer, probes would wait for callers
MAX_CONNECTIONS = 4000  # twice MAX_IN_FLIGHT: the other half is idle, or its refusal is held back. 28 KB each
# Seconds from `graceful_timeout`, after which the worker cuts the requests in progress, until the master kills it. The
# worker looks once a second and needs up to 3 s to cut them, 5 s to close its pool, and 2 s to write its log.
STOP_RESERVE_SECONDS = 10
RESERVED_FILES = 200  # open files that are not connections of clients: the pool (at most 100), probes, the log

# Python collects garbage after this many new objects, and after this many such collections also among older objects.
# No request runs during a collection. With the defaults (700, 10, 10), /health beside 1,000 connections had a p99 of
# 87 ms, and with these values 18 ms.
GC_THRESHOLDS = (10_000, 20, 50)


class Server(BaseApplication):
    """gunicorn with one worker: one process per container, replicas for more."""

    def __init__(self, config: Config, connections: int) -> None:
        self.config = config
        self.connections = connections
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self.config).items():
            self.cfg.set(name, value)
        self.cfg.set("worker_connections", self.connections)

    def load(self) -> Application:
        return build_application(self.config)

    def run(self) -> None:
        """Serve until a signal arrives. It does not return: gunicorn ends the process."""
        Master(self).run()


class Master(Arbiter):
    """gunicorn's master process, which drains before it stops.

    Between SIGTERM and the end of the drain it works as before: the worker accepts connections, and is replaced if it
    fails. The timer is a signal, because gunicorn's main loop handles signals one after the other.
    """

    SIGNALS = (*Arbiter.SIGNALS, signal.SIGALRM)

    def handle_term(self) -> None:
        """SIGTERM: the first one begins the drain, the second one ends it."""
        seconds = self.app.config.drain_seconds
        if drain.is_active() or not seconds:
            self._stop_gracefully()
        else:
            drain.begin()
            signal.setitimer(signal.ITIMER_REAL, seconds)
            logs.log.info("draining for %s s, then stopping", seconds, extra={"event": "drain.begin"})

    def handle_alrm(self) -> None:
        """SIGALRM: DRAIN_SECONDS have passed."""
        self._stop_gracefully()

    def _stop_gracefully(self) -> None:
        """gunicorn's own reaction to SIGTERM. It raises an exception that ends the main loop."""
        if drain.is_active():
            logs.log.info("stopping after the drain", extra={"event": "drain.end"})
        # The worker has this limit too, and must reach it first: a worker that is killed does not log what it cut.
        self.cfg.set("graceful_timeout", self.cfg.graceful_timeout + STOP_RESERVE_SECONDS)
        super().handle_term()


def build_application(config: Config) -> Application:
    """The application with an open pool. Call it after the fork, and close its database at the end."""
    database = Database(config.database_url, config.pool_size, RETRIED_CONSTRAINTS)
    allow_data_loss = config.environment == "development"
    readiness = Readiness(config.database_url, database.has_connection, allow_data_loss=allow_data_loss)
    return Application(Dependencies(database, GroupPosting(database), readiness), config.callers)


def connection_limit() -> int:
    """How many connections to accept. Raises the limit of open files as far as it is needed and allowed."""
    needed = MAX_CONNECTIONS + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return MAX_CONNECTIONS
    limit = needed if hard == unlimited else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit - RESERVED_FILES


def gunicorn_settings(config: Config) -> dict[str, Any]:
    """gunicorn's settings. A setting that is not listed has a suitable default."""
    return {
        "bind": f"{config.host}:{config.port}",
        "worker_class": CooperativeWorker,
        "workers": 1,
        "keepalive": 75,  # seconds; longer than a load balancer's own, else it uses a closed connection and returns 502
        "timeout": 30,  # seconds without a heartbeat of the worker; it does not limit a request
        "graceful_timeout": 20,  # seconds for requests in progress after the drain
        "worker_connections": MAX_CONNECTIONS,
        "backlog": MAX_CONNECTIONS,  # all may connect at once; if it is full, a client's kernel retries after 1 s
        "control_socket_disable": True,  # its socket would be created in $HOME
        "forwarded_allow_ips": "",  # no header may change the scheme or the client's address
        "logger_class": Logger,
        "post_worker_init": _on_worker_start,
        "worker_exit": _on_worker_exit,
    }


class Logger(gunicorn.glogging.Logger):
    """gunicorn's lines go through the root logger, as JSON. http/app.py logs the requests."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """For an invalid request gunicorn would log the line, which may contain a token."""
        super().warning(msg.partition(": ")[0] if msg.startswith("Invalid request") else msg, *args, **kwargs)


def _on_worker_start(worker: Worker) -> None:
    gc.collect()
    gc.freeze()  # what is loaded now stays, so later collections leave it out
    gc.set_threshold(*GC_THRESHOLDS)
    config: Config = worker.app.config
    logs.log.info("ready to serve", extra={"event": "startup.ready", "settings": config.redacted()})


def _on_worker_exit(server: Arbiter, worker: Worker) -> None:
    if hasattr(worker, "wsgi"):  # else loading failed, and gunicorn has logged why
        worker.wsgi.dependencies.database.close()
        logs.log.info("stopped", extra={"event": "shutdown"})
