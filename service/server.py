"""Builds the application, and runs it under gunicorn: the settings with their reasons, and JSON log lines."""

import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gunicorn.glogging
import gunicorn.util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from service import logs
from service.config import Config
from service.database import Database
from service.http.app import Application
from service.http.request import Dependencies
from service.ledger.group import GroupPosting
from service.ledger.posting import RETRIED_CONSTRAINTS
from service.readiness import Readiness

THREADS = 128  # they mostly wait, and a waiting thread is cheap; http/app.py admits fewer requests than that
CLOSING_THREADS = 8  # each waits up to 2 s for a client that does not close its side of a connection
PEER_TIMEOUT_SECONDS = 5  # a client that stops sending or receiving is cut off; else 128 of them block all threads


class Server(BaseApplication):
    """gunicorn with one worker: one process per container, replicas for more. `run` does not return."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self.config).items():
            self.cfg.set(name, value)

    def load(self) -> Application:
        return build_application(self.config)


def build_application(config: Config) -> Application:
    """The application with an open pool. Call it after the fork, and close its database at the end."""
    database = Database(config.database_url, config.pool_size, RETRIED_CONSTRAINTS)
    return Application(Dependencies(database, GroupPosting(database), Readiness(config.database_url)), config.callers)


def gunicorn_settings(config: Config) -> dict[str, Any]:
    """gunicorn's settings. A setting that is not listed has a suitable default."""
    return {
        "bind": f"{config.host}:{config.port}",
        "worker_class": "gthread",
        "workers": 1,
        "threads": THREADS,
        "keepalive": 75,  # seconds; longer than a load balancer's own, else it uses a closed connection and returns 502
        "timeout": 30,  # seconds without a heartbeat of the worker; under gthread it does not limit a request
        "graceful_timeout": 20,  # seconds for requests in progress after SIGTERM
        "worker_connections": 1000,
        "backlog": 128,
        "control_socket_disable": True,  # its socket would be created in $HOME
        "forwarded_allow_ips": "",  # no header may change the scheme or the client's address
        "logger_class": Logger,
        "when_ready": _limit_peers,
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


def _limit_peers(arbiter: Arbiter) -> None:
    """Set the timeouts on the listening sockets: on Linux, accepted sockets inherit them. gunicorn has no setting."""
    for listener in arbiter.LISTENERS:
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", PEER_TIMEOUT_SECONDS, 0))


def _on_worker_start(worker: Worker) -> None:
    """Log the settings, and close connections in threads of their own instead of the thread that accepts them."""
    executor = ThreadPoolExecutor(CLOSING_THREADS)
    gunicorn.util.close_graceful = partial(executor.submit, gunicorn.util.close_graceful)
    config: Config = worker.app.config
    logs.log.info("ready to serve", extra={"event": "startup.ready", "settings": config.redacted()})


def _on_worker_exit(server: Arbiter, worker: Worker) -> None:
    if hasattr(worker, "wsgi"):  # else loading failed, and gunicorn has logged why
        worker.wsgi.dependencies.database.close()
        logs.log.info("stopped", extra={"event": "shutdown"})
