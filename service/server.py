"""gunicorn: its settings with their reasons, and its log lines made ours."""

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

from service import logs, wsgi
from service.app import Application
from service.config import Config

THREADS = 128  # they mostly wait, and waiting threads are cheap; the front door admits fewer than that
CLOSING_THREADS = 8  # each waits up to two seconds for a client that does not close its end
PEER_TIMEOUT_SECONDS = 5  # who stops sending a request, or reading an answer, is cut; else 128 of them stop all threads


class Server(BaseApplication):
    """gunicorn with one worker: one process per container, replicas for more. `run` does not return."""

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__()

    def load_config(self) -> None:
        for name, value in settings(self._config).items():
            self.cfg.set(name, value)

    def load(self) -> Application:
        return wsgi.build(self._config)


def settings(config: Config) -> dict[str, Any]:
    """gunicorn's settings. What is not listed has a default that suits."""
    return {
        "bind": f"{config.host}:{config.port}",
        "worker_class": "gthread",
        "workers": 1,
        "threads": THREADS,
        "keepalive": 75,  # seconds; longer than a balancer's own, else it meets a closed connection and answers 502
        "timeout": 30,  # seconds without a heartbeat of the worker; under gthread it does not limit a request
        "graceful_timeout": 20,  # seconds for requests in hand after SIGTERM
        "worker_connections": 1000,
        "backlog": 128,
        "control_socket_disable": True,  # would be written to $HOME
        "forwarded_allow_ips": "",  # nobody may tell us another scheme or client
        "logger_class": Logger,
        "when_ready": _limit_peers,
        "post_worker_init": _begin,
        "worker_exit": _close,
    }


class Logger(gunicorn.glogging.Logger):
    """gunicorn's own lines go through the root logger and come out as JSON. The front door logs requests."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers, self.error_log.propagate = [], True

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Of a request that it cannot read, gunicorn would print the line, which may be a token."""
        super().warning(msg.partition(": ")[0] if msg.startswith("Invalid request") else msg, *args, **kwargs)


def _limit_peers(arbiter: Arbiter) -> None:
    """Accepted sockets inherit this from the listening one on Linux; gunicorn has no setting for it."""
    for listener in arbiter.LISTENERS:
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", PEER_TIMEOUT_SECONDS, 0))


def _begin(worker: Worker) -> None:
    """Say what runs, and let connections be closed elsewhere than in the thread that accepts them."""
    linger, closers = gunicorn.util.close_graceful, ThreadPoolExecutor(CLOSING_THREADS)
    gunicorn.util.close_graceful = partial(closers.submit, linger)
    config: Config = worker.app._config
    logs.log.info("ready to serve", extra={"event": "startup.ready", "settings": config.redacted()})


def _close(server: Arbiter, worker: Worker) -> None:
    if hasattr(worker, "wsgi"):  # else it could not be loaded, and gunicorn says why
        worker.wsgi.parts.database.close()
        logs.log.info("stopped", extra={"event": "shutdown"})
