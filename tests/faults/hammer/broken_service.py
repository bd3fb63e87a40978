"""`python -m tests.faults.hammer.broken_service BUILD`: the service, broken by a function of broken_builds.py."""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import sys

import pytest

from service import __main__ as start
from tests.support import broken_builds


def main() -> int:
    """Break the service as the argument says, and run it."""
    getattr(broken_builds, sys.argv[1])(pytest.MonkeyPatch())
    del sys.argv[1:]
    return start.main()


if __name__ == "__main__":
    sys.exit(main())
