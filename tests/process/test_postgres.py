"""dev/postgres.py, the PostgreSQL for development and tests: it starts for every user, and it cleans up."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from dev import postgres
from tests.support.live import ROOT
from tests.support.waiting import LIMIT_SECONDS, wait_until

PRINT_URL_AND_WAIT = ("--", "sh", "-c", 'echo "$MIGRATE_DATABASE_URL"; exec cat')  # cat ends when its input is closed
ELSEWHERE = "postgresql://user@elsewhere/ledger"


@pytest.mark.parametrize("role", ["ledger_service", "ledger_owner"])
def test_each_role_can_connect_to_a_temporary_server(temporary: postgres.Server, role: str) -> None:
    """The URL of a role connects as that role, and only the owner may create databases and roles."""
    url = {"ledger_service": temporary.service_url, "ledger_owner": temporary.owner_url}[role]
    assert query(url, "SELECT current_user || ' in ' || current_database()") == f"{role} in ledger"
    rights = "SELECT ARRAY[rolcreatedb, rolcreaterole, rolsuper] FROM pg_roles WHERE rolname = current_user"
    assert query(url, rights) == [role == "ledger_owner", role == "ledger_owner", False]


def test_a_wrong_password_is_refused(temporary: postgres.Server) -> None:
    """The socket needs the password of the role, as in production."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(temporary.service_url.replace(postgres.PASSWORD, "wrong"), "SELECT 1")


def test_nothing_is_left_after_the_block() -> None:
    """The process, the data and the socket of a temporary server are gone."""
    with postgres.running() as server:
        pid = server_pid(server.owner_url)
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not server.data.exists()
    assert not server.socket_directory.parent.exists()


def test_nothing_is_left_after_kill_9() -> None:
    """If the driver is killed, the server still stops, and its directories are deleted."""
    with driver(*PRINT_URL_AND_WAIT) as killed:
        url = line_of(killed)
        pid = server_pid(url)
        killed.kill()
        wait_until(lambda: not is_alive(pid), "the server has stopped")
        wait_until(lambda: not socket_directory(url).parent.exists(), "its directory is deleted")


def test_nothing_is_left_after_ctrl_c(kept: Path) -> None:
    """The driver waits for a command that handles SIGINT, prints nothing, and cleans up."""
    slow = "trap 'sleep 0.2; exit 5' INT; echo $MIGRATE_DATABASE_URL; while :; do sleep 0.01; done"
    with driver("--data", kept, "--", "sh", "-c", slow) as interrupted:
        url = line_of(interrupted)
        os.killpg(interrupted.pid, signal.SIGINT)
        assert interrupted.communicate(timeout=LIMIT_SECONDS) == ("", "")
        assert interrupted.returncode == 5
        assert not socket_directory(url).parent.exists()


def test_data_stays_between_two_runs(kept: Path) -> None:
    """A second run with the same --data has the tables of the first, even if the server's account cannot enter it."""
    with driver("--data", kept, *PRINT_URL_AND_WAIT) as process:
        query(line_of(process), "CREATE TABLE stays AS SELECT 42 AS number")
    with driver("--data", kept, *PRINT_URL_AND_WAIT) as process:
        assert query(line_of(process), "TABLE stays") == 42


def test_kept_data_survives_a_crash_of_the_server(kept: Path) -> None:
    """A server with --data is durable, and the postmaster.pid of a killed server does not block the next start."""
    with postgres.running(kept) as server:
        query(server.owner_url, "CREATE TABLE survives AS SELECT 42 AS number")
        assert query(server.superuser_url, "SHOW fsync") == "on"
        os.kill(server_pid(server.owner_url), signal.SIGKILL)
    assert (server.data / "postmaster.pid").exists()
    with postgres.running(kept) as server:
        assert query(server.owner_url, "TABLE survives") == 42


def test_kept_data_is_for_one_run_at_a_time(kept: Path) -> None:
    """A second run on the same directory is refused with a message, and does not affect the first."""
    with postgres.running(kept) as server:
        with pytest.raises(postgres.PostgresError, match="in use by another run"), postgres.running(kept):
            pass
        assert query(server.owner_url, "SELECT 42") == 42


def test_attached_finds_the_server_of_another_run(kept: Path) -> None:
    """It finds the server only while that runs, as `make audit` finds the one of `make run`."""
    assert postgres.attached(kept) is None
    with postgres.running(kept) as server:
        attached = postgres.attached(kept)
        assert attached
        assert (attached.data, attached.socket_directory) == (server.data, server.socket_directory)
        psycopg.connect(attached.service_url).close()
    assert postgres.attached(kept) is None


def test_kept_data_of_another_major_version_is_refused(open_directory: Path) -> None:
    """The message has both versions and what to do."""
    data = open_directory / "old"
    (data / "cluster").mkdir(parents=True)
    (data / "cluster" / "PG_VERSION").write_text("9\n")
    ours = postgres.major(postgres.installations()[0])
    message = rf"(?s)of PostgreSQL 9, but .* is PostgreSQL {ours}\..*Set PG_BIN"
    with pytest.raises(postgres.PostgresError, match=message), postgres.running(data):
        pass


def test_with_a_database_url_nothing_is_started() -> None:
    """The command gets the URL of the given server, and no PostgreSQL has to be installed."""
    print_urls = ("--", "sh", "-c", 'echo "$DATABASE_URL $MIGRATE_DATABASE_URL"')
    with driver(*print_urls, DATABASE_URL=ELSEWHERE, PG_BIN="/nowhere") as process:
        assert process.communicate(timeout=LIMIT_SECONDS) == (f"{ELSEWHERE} {ELSEWHERE}\n", "")
    with driver(*print_urls, DATABASE_URL=ELSEWHERE, MIGRATE_DATABASE_URL="owner's", PG_BIN="/nowhere") as process:
        assert process.communicate(timeout=LIMIT_SECONDS) == (f"{ELSEWHERE} owner's\n", "")


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -KILL $$", 137), ("exec no-such", 127)])
def test_the_exit_code_is_that_of_the_command(command: str, code: int) -> None:
    """For a command that a signal ended, it is 128 plus the number of the signal, as in a shell."""
    with driver("--", "sh", "-c", command, DATABASE_URL=ELSEWHERE) as process:
        process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == code


def test_sigterm_is_passed_on() -> None:
    """SIGTERM to the driver ends the command, and the driver returns the command's exit code."""
    with driver("--", "sh", "-c", "echo started; exec sleep 60", DATABASE_URL=ELSEWHERE) as process:
        assert line_of(process) == "started"
        process.terminate()
        process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM


def test_an_unprivileged_user_can_run_it(temporary: postgres.Server, open_directory: Path) -> None:
    """Driver, server and data belong to the user that runs the driver."""
    account = postgres.server_account()  # of the user nobody if this is root, otherwise of the same user
    user = account.get("user", os.geteuid())
    home = open_directory / "plain"
    (home / "dev").mkdir(parents=True)
    for name in ("postgres.py", "postgres_keeper.py"):
        shutil.copy(ROOT / "dev" / name, home / "dev")
    os.chown(home, user, -1)
    python = str(reachable_python(account, open_directory))
    command = [python, "-m", "dev.postgres", "--data", "data", "--", "id", "-u"]
    environment = {"PATH": os.defpath, "LD_LIBRARY_PATH": f"{open_directory}/lib", "PG_BIN": str(temporary.binaries)}
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, **account
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{user}\n", "")
    assert (home / "data" / "cluster").stat().st_uid == user


def test_without_postgresql_the_error_has_all_ways_to_get_one() -> None:
    """Four lines: two ways to install it, PG_BIN and DATABASE_URL."""
    with pytest.raises(postgres.PostgresError) as caught:
        postgres.best([])
    assert len(str(caught.value).splitlines()) == 4
    for way in ("pip install", "apt install", "brew install", "PG_BIN=", "DATABASE_URL="):
        assert way in str(caught.value)


@pytest.fixture(autouse=True)
def balanced_books() -> None:
    """Replaces the check of the ledger after each test: these servers have no ledger."""


@pytest.fixture(scope="module")
def temporary() -> Iterator[postgres.Server]:
    """A server on which the tests only run queries."""
    with postgres.running() as server:
        yield server


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """A directory that every account can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="ledger tésts ", dir="/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory for all tests. Other accounts cannot enter it, so root's server has the data behind a link."""
    data = tmp_path_factory.mktemp("kept tésts") / "some data"
    yield data
    shutil.rmtree(data.resolve())


@contextlib.contextmanager
def driver(*arguments: str | Path, **environment: str) -> "Iterator[subprocess.Popen[str]]":
    """`python -m dev.postgres` in its own process group, without the DATABASE_URL of this process.

    At the end of the block its input is closed, and it must end.
    """
    command = [sys.executable, "-m", "dev.postgres", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")}
    pipe, env = subprocess.PIPE, inherited | environment
    with subprocess.Popen(
        command, env=env, cwd=ROOT, start_new_session=True, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def line_of(process: "subprocess.Popen[str]") -> str:
    """The next line that the command prints."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], LIMIT_SECONDS)
    assert readable, f"the command printed nothing within {LIMIT_SECONDS:.0f} s"
    return process.stdout.readline().strip()


def query(url: str, statement: str) -> Any:
    """The first column of the first row; None for a statement that returns no rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def socket_directory(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def server_pid(url: str) -> int:
    """The pid of the server, from the lock file of its socket."""
    return int((socket_directory(url) / ".s.PGSQL.5432.lock").read_text().split()[0])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def reachable_python(account: dict[str, Any], directory: Path) -> Path:
    """An interpreter that the account can run: this one, a system one, or a copy of this one, which may be in /root."""
    name = f"python3.{sys.version_info.minor}"
    for python in (Path(sys.executable), Path("/usr/bin", name), Path("/usr/local/bin", name)):
        if postgres.reaches(account, python):
            return python
    unneeded = shutil.ignore_patterns("site-packages", "test", "config-*")
    shutil.copytree(Path(sys.base_prefix, "lib"), directory / "lib", ignore=unneeded)
    (directory / "bin").mkdir()
    return Path(shutil.copy(Path(sys.base_prefix, "bin", name), directory / "bin"))
