"""A Python that the account of the servers can run Patroni with.

Root cannot run PostgreSQL, so it starts Patroni as the account nobody. That account may not be able to enter the
virtual environment or, with pyenv, the home directory with Python itself. So root gives it copies.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from dev import postgres

# What `python -m patroni` imports.
PACKAGES = (
    *("patroni", "python-etcd", "dnspython", "urllib3", "psutil", "PyYAML", "click", "prettytable", "wcwidth"),
    *("python-dateutil", "ydiff", "psycopg", "psycopg-binary", "typing_extensions"),
)
UNUSED = ("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "*.a")


def prepare(account: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The interpreter for `-m patroni`, and its environment."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    if not account:
        return sys.executable, environment
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    copy = copied(interpreter)
    environment["PYTHONPATH"] = str(copy / "packages")
    if not postgres.reaches(account, interpreter):
        interpreter = copy / "bin" / interpreter.name
        environment["PYTHONHOME"] = str(copy)
        environment["LD_LIBRARY_PATH"] = str(copy / "lib")  # else it takes the libpython of the system
    return str(interpreter), environment


def copied(interpreter: Path) -> Path:
    """A directory with this Python and the packages, which later runs use again."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    digest = hashlib.sha256("\n".join([str(interpreter), sys.version, *versions]).encode()).hexdigest()[:16]
    copy = postgres.COPIES / f"ledger-python-{digest}"
    if not copy.exists():
        with tempfile.TemporaryDirectory(prefix="ledger-", dir=postgres.COPIES) as temporary:
            unfinished = Path(temporary) / "copy"
            copy_packages(unfinished / "packages")
            copy_interpreter(interpreter, unfinished)
            subprocess.check_call(["chmod", "-R", "u=rwX,go=rX", unfinished])
            with contextlib.suppress(OSError):  # another run has made the same copy
                unfinished.rename(copy)
    postgres.check_copy(copy)
    return copy


def copy_packages(target: Path) -> None:
    """Copy the packages, without their commands, which are outside of their folders."""
    for name in PACKAGES:
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts and Path(str(file.locate())).exists():
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), target / file)


def copy_interpreter(interpreter: Path, target: Path) -> None:
    """Copy the program, its libraries and the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, target / "lib" / library.name, ignore=shutil.ignore_patterns(*UNUSED))
    for shared in library.parent.glob("libpython*"):
        shutil.copy2(shared, target / "lib")
    (target / "bin").mkdir()
    shutil.copy2(interpreter, target / "bin")
