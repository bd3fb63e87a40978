"""`make cluster`: the service on three PostgreSQL, and what it prints."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import dotenv
import pytest

from dev import cluster as clusters
from dev import cluster_keeper
from tests.support.live import ROOT, reserved_port
from tests.support.waiting import LIMIT_SECONDS, wait_until


@pytest.fixture
def printed() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        yield file


@contextlib.contextmanager
def make_cluster(printed: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """The process of `make cluster` on a free port, when it has printed its commands."""
    if not shutil.which("etcd"):
        pytest.skip(clusters.NO_ETCD)
    settings = {name: value for name, value in dotenv.dotenv_values(ROOT / ".env.example").items() if value}
    with reserved_port() as port:
        environment = {"PATH": os.environ["PATH"], **settings, "PORT": str(port)}
        process = subprocess.Popen(
            [sys.executable, "-m", "dev.cluster"], cwd=ROOT, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            with contextlib.suppress(AssertionError):  # a busy machine may need twice the usual limit
                wait_until(lambda: "kill -9" in text(printed), "the commands are printed")
            wait_until(lambda: "kill -9" in text(printed), "the commands are printed")
            yield process
        finally:
            process.kill()
            process.wait(LIMIT_SECONDS)


def text(printed: IO[bytes]) -> str:
    return os.pread(printed.fileno(), os.fstat(printed.fileno()).st_size, 0).decode()


def home_of(output: str) -> Path:
    """The directory of the cluster, from the command that kills the primary."""
    found = re.search(r"(/tmp/ledger-cluster-\w+)/node\d/data/postmaster.pid", output)
    assert found is not None, output
    return Path(found[1])


@pytest.mark.faults
def test_nothing_outlives_make_cluster(printed: IO[bytes]) -> None:
    """The printed curl moves money; after kill -9 of the command, no process is left, and no file."""
    with make_cluster(printed) as process:
        output = text(printed)
        curl = re.search(r"^curl .+$", output, re.MULTILINE)
        assert curl is not None, output
        answer = subprocess.check_output(["sh", "-c", f"{curl[0]} --silent"], text=True, timeout=LIMIT_SECONDS)
        assert '"posted"' in answer
        home = home_of(output)
        assert len(list(cluster_keeper.members(home))) > len(clusters.NODES)
        process.kill()
        wait_until(lambda: not list(cluster_keeper.members(home)), "all processes have ended")
        wait_until(lambda: not home.exists(), "the directory is removed")
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(curl[0].split()[3].partition("/v1/")[0], timeout=LIMIT_SECONDS)


@pytest.mark.faults
def test_ctrl_c_stops_the_service_and_the_cluster(printed: IO[bytes]) -> None:
    """SIGTERM, which Ctrl-C becomes for the service, ends the command with 0, and nothing is left."""
    with make_cluster(printed) as process:
        home = home_of(text(printed))
        process.terminate()
        assert process.wait(LIMIT_SECONDS) == 0
        assert not list(cluster_keeper.members(home))
        assert not home.exists()
