"""The PostgreSQL for development and tests: it starts for everybody, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from tests import postgres

ROOT = Path(__file__).resolve().parents[1]
TELL_AND_WAIT = ("--", "sh", "-c", 'echo "$MIGRATE_DATABASE_URL"; exec cat')  # cat ends when its input is closed.
ELSEWHERE = "postgresql://somebody@elsewhere/ledger"


@pytest.mark.parametrize("role", ["ledger_service", "ledger_owner"])
def test_a_throw_away_server_answers_each_role(throw_away: postgres.Server, role: str) -> None:
    """The URL of a role leads to the database as that role, which has the rights that it needs and no more."""
    url = {"ledger_service": throw_away.service_url, "ledger_owner": throw_away.owner_url}[role]
    assert ask(url, "SELECT current_user || ' in ' || current_database()") == f"{role} in ledger"
    rights = "SELECT ARRAY[rolcreatedb, rolcreaterole, rolsuper] FROM pg_roles WHERE rolname = current_user"
    assert ask(url, rights) == [role == "ledger_owner", role == "ledger_owner", False]


def test_a_wrong_password_is_refused(throw_away: postgres.Server) -> None:
    """Roles are guarded by their passwords on the socket, too, as they are in production."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(throw_away.service_url.replace(postgres.PASSWORD, "wrong"), "SELECT 1")


def test_nothing_is_left_after_the_block() -> None:
    """A throw-away server takes its process, its data and its socket with it."""
    with postgres.running() as server:
        process = process_behind(server.owner_url)
        assert is_alive(process)
    assert not is_alive(process)
    assert not server.data.exists()
    assert not server.socket_directory.parent.exists()


def test_nothing_is_left_after_kill_9() -> None:
    """The server ends, and its directories go, though its driver could do nothing about it."""
    with driver(*TELL_AND_WAIT) as killed:
        url = line_of(killed)
        process = process_behind(url)
        killed.kill()
        assert eventually(lambda: not is_alive(process))
        assert eventually(lambda: not socket_directory(url).parent.exists())


def test_nothing_is_left_after_ctrl_c(kept: Path) -> None:
    """The command may answer Ctrl-C in its own time; the driver waits for it, says nothing, and cleans up."""
    slow = "trap 'sleep 0.2; exit 5' INT; echo $MIGRATE_DATABASE_URL; while :; do sleep 0.01; done"
    with driver("--data", kept, "--", "sh", "-c", slow) as interrupted:
        url = line_of(interrupted)
        os.killpg(interrupted.pid, signal.SIGINT)
        assert interrupted.communicate() == ("", "")
        assert interrupted.returncode == 5
        assert not socket_directory(url).parent.exists()


def test_data_stays_between_two_runs(kept: Path) -> None:
    """What one run left under --data the next one finds, even where the server's account has no access."""
    for statement, answer in (("CREATE TABLE stays AS SELECT 42 AS answer", None), ("TABLE stays", 42)):
        with driver("--data", kept, *TELL_AND_WAIT) as process:
            assert ask(line_of(process), statement) == answer


def test_kept_data_survives_a_crash_of_the_server(kept: Path) -> None:
    """It is durable, and the postmaster.pid that a dead server left behind does not block the next start."""
    with postgres.running(kept) as server:
        ask(server.owner_url, "CREATE TABLE survives AS SELECT 42 AS answer")
        assert ask(server.superuser_url, "SHOW fsync") == "on"
        os.kill(process_behind(server.owner_url), signal.SIGKILL)
    assert (server.data / "postmaster.pid").exists()
    with postgres.running(kept) as server:
        assert ask(server.owner_url, "TABLE survives") == 42


def test_kept_data_is_for_one_run_at_a_time(kept: Path) -> None:
    """A second run on the same directory is refused in words, and does not harm the first."""
    with postgres.running(kept) as server:
        with pytest.raises(postgres.PostgresError, match="in use by another run"), postgres.running(kept):
            pass
        assert ask(server.owner_url, "SELECT 42") == 42


def test_a_server_is_used_beside_the_run_that_keeps_it(kept: Path) -> None:
    """It is found while it runs, as `make audit` finds that of `make run`, and only then."""
    assert postgres.attached(kept) is None
    with postgres.running(kept) as server:
        beside = postgres.attached(kept)
        assert beside
        assert beside == server
        psycopg.connect(beside.service_url).close()
    assert postgres.attached(kept) is None


def test_kept_data_of_another_major_version_is_refused(open_directory: Path) -> None:
    """The message names both versions and the way out."""
    data = open_directory / "old"
    (data / "cluster").mkdir(parents=True)
    (data / "cluster" / "PG_VERSION").write_text("9\n")
    ours = postgres.major(postgres.installations()[0])
    message = rf"(?s)of PostgreSQL 9, but .* is PostgreSQL {ours}\..*Set PG_BIN"
    with pytest.raises(postgres.PostgresError, match=message), postgres.running(data):
        pass


def test_with_a_database_url_nothing_is_started() -> None:
    """A server that exists already is taken as it is: binaries are not even looked for."""
    tell = ("--", "sh", "-c", 'echo "$DATABASE_URL $MIGRATE_DATABASE_URL"')
    with driver(*tell, DATABASE_URL=ELSEWHERE, PG_BIN="/nowhere") as process:
        assert process.communicate() == (f"{ELSEWHERE} {ELSEWHERE}\n", "")
    with driver(*tell, DATABASE_URL=ELSEWHERE, MIGRATE_DATABASE_URL="owner's", PG_BIN="/nowhere") as process:
        assert process.communicate() == (f"{ELSEWHERE} owner's\n", "")


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -KILL $$", 137), ("exec no-such", 127)])
def test_the_exit_code_is_that_of_the_command(command: str, code: int) -> None:
    """With 128 and the number of the signal for a command that was killed, as a shell has it."""
    with driver("--", "sh", "-c", command, DATABASE_URL=ELSEWHERE) as process:
        process.communicate()
    assert process.returncode == code


def test_sigterm_is_passed_on() -> None:
    """Whoever stops the driver stops the command, and hears what it ended with."""
    with driver("--", "sh", "-c", "echo started; exec sleep 60", DATABASE_URL=ELSEWHERE) as process:
        assert line_of(process) == "started"
        process.terminate()
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM


def test_a_plain_user_can_run_it(throw_away: postgres.Server, open_directory: Path) -> None:
    """It takes no rights: driver, server and data all belong to whoever runs it."""
    account = postgres.server_account()  # That of nobody if we are root; otherwise we are plain users ourselves.
    user = account.get("user", os.geteuid())
    home = open_directory / "plain"
    (home / "tests").mkdir(parents=True)
    for name in ("postgres.py", "postgres_keeper.py"):
        shutil.copy(ROOT / "tests" / name, home / "tests")
    os.chown(home, user, -1)
    python = str(reachable_python(account, open_directory))
    command = [python, "-m", "tests.postgres", "--data", "data", "--", "id", "-u"]
    environment = {"PATH": os.defpath, "LD_LIBRARY_PATH": f"{open_directory}/lib", "PG_BIN": str(throw_away.binaries)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False, **account)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{user}\n", "")
    assert (home / "data" / "cluster").stat().st_uid == user


def test_without_any_postgresql_every_way_to_get_one_is_named() -> None:
    """In four lines, as whoever reads them wants to go on."""
    with pytest.raises(postgres.PostgresError) as caught:
        postgres.best([])
    assert len(str(caught.value).splitlines()) == 4
    for way in ("pip install", "apt install", "brew install", "PG_BIN=", "DATABASE_URL="):
        assert way in str(caught.value)


@pytest.fixture(autouse=True)
def balanced_books() -> None:
    """There are no books on these servers."""


@pytest.fixture(scope="module")
def throw_away() -> Iterator[postgres.Server]:
    """A server that the tests only ask."""
    with postgres.running() as server:
        yield server


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """A directory that every account can enter, as those of pytest are closed."""
    with tempfile.TemporaryDirectory(prefix="ledger tésts ", dir="/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One directory of kept data for all. Only we can go there, so that root's server has it behind a link."""
    data = tmp_path_factory.mktemp("kept tésts") / "some data"
    yield data
    shutil.rmtree(data.resolve())


def driver(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """`python -m tests.postgres` in a process group of its own; the database that we run on is unknown to it."""
    command = [sys.executable, "-m", "tests.postgres", *arguments]
    inherited = {name: word for name, word in os.environ.items() if not name.endswith("DATABASE_URL")}
    pipe, env = subprocess.PIPE, inherited | environment
    return subprocess.Popen(
        command, env=env, cwd=ROOT, start_new_session=True, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def line_of(process: "subprocess.Popen[str]") -> str:
    """The next line that the command prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(url: str, query: str) -> Any:
    """The first column of the first row, or None for a statement that returns none."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def socket_directory(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def process_behind(url: str) -> int:
    """The id of the server's first process, from the file beside its socket."""
    return int((socket_directory(url) / ".s.PGSQL.5432.lock").read_text().split()[0])


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it holds within half a minute, which no healthy run needs."""
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def reachable_python(account: dict[str, Any], directory: Path) -> Path:
    """Our interpreter, one like it, or a copy of it: what stands under /root is closed to other accounts."""
    name = f"python3.{sys.version_info.minor}"
    for python in (Path(sys.executable), Path("/usr/bin", name), Path("/usr/local/bin", name)):
        if postgres.reaches(account, python):
            return python
    unneeded = shutil.ignore_patterns("site-packages", "test", "config-*")
    shutil.copytree(Path(sys.base_prefix, "lib"), directory / "lib", ignore=unneeded)
    (directory / "bin").mkdir()
    return Path(shutil.copy(Path(sys.base_prefix, "bin", name), directory / "bin"))
