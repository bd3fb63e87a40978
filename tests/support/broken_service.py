"""`python -m tests.support.broken_service FAULT...`: the service as a process, with faults.

While the file HANG_FILE of the environment exists, name resolution hangs, as with a name server that never answers. It
then makes a file with the suffix `.entered`.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import _socket
import os
import socket
import sys
from pathlib import Path
from typing import Any

from gevent.monkey import get_original

from service import __main__ as start
from service import log_writer


def resolve_while_others_wait() -> None:
    """Resolve names as libpq does: without gevent."""
    socket.getaddrinfo = _socket.getaddrinfo  # type: ignore[assignment]


def log_while_others_wait() -> None:
    """Write each log line where it is made."""
    log_writer.install = lambda: None


def keep_few_lines() -> None:
    """Fill the queue of the log soon. This is no fault."""
    log_writer.MAX_LINES = 100


def main() -> int:
    """Run the service with the faults of the arguments."""
    _socket.getaddrinfo = _hang
    for fault in sys.argv[1:]:
        globals()[fault]()
    del sys.argv[1:]
    return start.main()


def _hang(*arguments: Any, **options: Any) -> Any:
    hang = Path(os.environ.get("HANG_FILE", "no-file"))
    while hang.exists():
        hang.with_suffix(".entered").touch()
        get_original("time", "sleep")(0.02)
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


if __name__ == "__main__":
    sys.exit(main())
