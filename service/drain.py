"""Whether this process drains: it still serves, but asks its clients and its load balancer to use another process.

The flag is one byte of memory that gunicorn's master shares with its worker, because it is created before the fork.
The master sets it, and the worker reads it for each response.
"""

import mmap

_flag = mmap.mmap(-1, 1)


def begin() -> None:
    """Set the flag. It stays set until the process ends."""
    _flag[0] = 1


def is_active() -> bool:
    """Whether SIGTERM has arrived, and DRAIN_SECONDS is not 0."""
    return _flag[0] == 1
