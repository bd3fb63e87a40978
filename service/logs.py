"""One JSON object a line on stdout, for everything that the process prints."""

import logging
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from service import VERSION

log = logging.getLogger("ledger")

# The fields of the request in hand, which every line that it logs carries: its ids, and the milliseconds spent so far.
context: ContextVar[dict[str, Any] | None] = ContextVar("context", default=None)


def add_time(name: str, seconds: float) -> None:
    """Add to a timing of the request in hand; outside a request nothing is kept."""
    if (fields := context.get()) is not None:
        fields[name] = round(fields[name] + seconds * 1000, 3)


def configure(level: str = "info", file: TextIO | None = None) -> None:
    """Send every log record, warning and uncaught exception of this process to the file, or stdout, as JSON."""
    handler = logging.StreamHandler(file or sys.stdout)
    handler.setFormatter(Formatter())
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    log.setLevel(level.upper())
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, traceback: _uncaught(error)
    threading.excepthook = lambda args: _uncaught(args.exc_value)
    sys.unraisablehook = lambda args: _uncaught(args.exc_value)


class Formatter(JsonFormatter):
    """The fields of docs/operations.md, in their order; `extra` of the call becomes fields of the line."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Put our fields first, then those of the request in hand, then those of the call."""
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z"
        log_data["level"] = record.levelname.lower()
        log_data["event"] = record.name  # of libraries, which log without an event; that of the call takes its place
        log_data["message"] = record.getMessage()
        log_data["service"] = "ledger"
        log_data["version"] = VERSION
        log_data.update(context.get() or {})
        super().add_fields(log_data, record, message_dict)
        stack = log_data.pop("exc_info", None)
        if record.exc_info and record.exc_info[0]:
            log_data["error"] = record.exc_info[0].__name__
            log_data["stack"] = stack


def _uncaught(error: BaseException | None) -> None:
    if not isinstance(error, KeyboardInterrupt | None):
        log.critical("uncaught exception", exc_info=error, extra={"event": "uncaught"})
