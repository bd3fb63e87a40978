"""A PostgreSQL cluster with automatic failover on this machine: three servers, each under Patroni, and one etcd.

    python -m dev.cluster        `make cluster`: the service on such a cluster; Ctrl-C stops everything
    in Python:                   with cluster.running() as started: ...

A commit is confirmed only when a second server has it (`synchronous_mode: quorum`, strict). A second process,
cluster_keeper.py, starts all programs. If this process ends in any way, even by kill -9, its pipe closes, and the
keeper ends them and deletes the data. All ports are on the loopback interface. etcd has no password: use this for
development only, on a machine whose accounts you trust.
"""

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dotenv
import psutil
import psycopg

from dev import cluster_python, postgres, postgres_keeper, run

NODES = ("node1", "node2", "node3")
HOST = "127.0.0.1"
START_SECONDS = 90  # a usual start takes 15 to 25 s
POLL_SECONDS = 0.1
REST_SECONDS = 2  # for a response of Patroni, which takes milliseconds
CONNECT_SECONDS = 3  # for one node; without it, a node that does not respond costs 130 s
TEMPORARY = Path("/tmp")  # not TMPDIR, which the account of the servers may not be able to enter
NO_ETCD = "etcd is not installed: apt install etcd-server | brew install etcd"
# Patroni's settings, with the reason for each in docs/scaling.md.
TTL_SECONDS = 20  # the lowest that Patroni accepts. If the primary is silent for this time, another one is promoted
LOOP_WAIT_SECONDS = 1
RETRY_TIMEOUT_SECONDS = 3  # the lowest that Patroni accepts: a primary without etcd keeps its role for this time

Through = Callable[[str, int], int]


def main() -> int:
    """Run the service on a cluster; returns its exit code, or 1 if the cluster cannot be started."""
    settings = {**dotenv.dotenv_values(run.ROOT / ".env"), **os.environ}
    for number in (signal.SIGINT, signal.SIGTERM):  # until the service runs, these stop the cluster
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    print("Starting etcd and three PostgreSQL with Patroni. This takes about 20 s.", flush=True)
    try:
        # In the directory of the cluster, because the keeper ends the processes there, also if this one is killed.
        with running() as cluster, contextlib.chdir(cluster.home):
            urls = {"DATABASE_URL": cluster.url("ledger_service"), "MIGRATE_DATABASE_URL": cluster.url("ledger_owner")}
            environment = {name: value for name, value in settings.items() if value} | urls
            environment["PYTHONPATH"] = str(run.ROOT)
            if code := run.run(["service.migrate", "up"], environment):
                return code
            threading.Thread(target=announce, args=[cluster, environment], daemon=True).start()
            return run.run(["service"], environment)
    except (postgres.PostgresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def announce(cluster: "Cluster", environment: dict[str, str]) -> None:
    """Print a command that moves money, and for each new primary a command that kills it."""
    run.announce(environment)
    announced = None
    while True:  # until the process ends
        primary = cluster.primary()
        if primary and primary != announced:
            announced = primary
            print(
                f"{primary.name} is the primary. This command kills it. Writes are refused for about {TTL_SECONDS} s,"
                f" until another node is the primary. A killed node is not started again.\n\n"
                f"kill -9 {cluster.pids[primary.name]} $(head -n 1 {primary.data}/postmaster.pid)\n",
                flush=True,
            )
        time.sleep(1)


def directly(node: str, port: int) -> int:
    """The port under which others reach this port of the node: the port itself."""
    return port


@dataclass(frozen=True)
class Node:
    """One PostgreSQL with its Patroni: the ports on which they listen, and under which others reach them."""

    name: str
    directory: Path
    postgres_port: int
    rest_port: int
    reached_postgres_port: int
    reached_rest_port: int
    etcd_port: int  # under which this node reaches etcd

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def server_pid(self) -> int:
        """The process id of its PostgreSQL. Raises OSError if it does not run."""
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])


@dataclass
class Cluster:
    """A running cluster. `pids` are the process ids of etcd and of each node's Patroni."""

    home: Path
    binaries: Path
    account: dict[str, Any]
    interpreter: str  # the Python of Patroni
    environment: dict[str, str]
    nodes: tuple[Node, ...]
    keeper: "subprocess.Popen[bytes]"
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    pids: dict[str, int] = field(default_factory=dict)

    def url(self, role: str, database: str = "ledger", nodes: tuple[Node, ...] | None = None) -> str:
        """The URL that leads to the primary among these nodes, by default all of them."""
        ports = ",".join(str(node.reached_postgres_port) for node in nodes or self.nodes)
        hosts = ",".join(HOST for _ in nodes or self.nodes)
        options = f"host={hosts}&port={ports}&target_session_attrs=read-write&connect_timeout={CONNECT_SECONDS}"
        return f"postgresql://{role}:{self.password}@/{database}?{options}"

    def direct_url(self, role: str, node: Node, database: str = "ledger") -> str:
        """The URL of one node, also if it is a standby, at the port on which its PostgreSQL listens."""
        return f"postgresql://{role}:{self.password}@{HOST}:{node.postgres_port}/{database}"

    def start_etcd(self, client_port: int, peer_port: int) -> None:
        client, peer = f"http://{HOST}:{client_port}", f"http://{HOST}:{peer_port}"
        options = ["--name=etcd", "--data-dir=data", f"--initial-cluster=etcd={peer}", f"--listen-peer-urls={peer}"]
        options += [f"--initial-advertise-peer-urls={peer}"]
        options += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        self._start("etcd", [find_etcd(), *options], {"PATH": os.environ["PATH"]})

    def start_node(self, node: Node) -> None:
        """Start the Patroni of a node, which starts PostgreSQL. Also after it was killed."""
        command = [self.interpreter, "-m", "patroni", str(node.directory / "patroni.json")]
        self._start(node.name, command, self.environment)

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        assert self.keeper.stdin is not None, "bug: the keeper was started without pipes"
        assert self.keeper.stdout is not None, "bug: the keeper was started without pipes"
        order = {"name": name, "command": command, "environment": environment, "account": self.account}
        self.keeper.stdin.write(json.dumps(order).encode() + b"\n")
        self.keeper.stdin.flush()
        line = self.keeper.stdout.readline()
        if not line:
            raise postgres.PostgresError("cluster_keeper.py ended without a response.")
        self.pids[name] = int(line)

    def primary(self) -> Node | None:
        """The node whose Patroni says that it is the primary and holds the lock in etcd."""
        return next((node for node in self.nodes if self._rest(node, "GET", "primary")), None)

    def is_complete(self) -> bool:
        """Whether all nodes agree which of them is the primary, and both others replicate from it.

        All must agree, because a node that was frozen or cut off shows its old state for some seconds.
        """
        expected = ["running", *["streaming"] * (len(self.nodes) - 1)]
        primaries = set()
        for node in self.nodes:
            members = (self._rest(node, "GET", "cluster") or {}).get("members", [])
            if sorted(member["state"] for member in members) != expected:
                return False
            primaries |= {member["name"] for member in members if member["role"] == "leader"}
        return len(primaries) == 1

    def switch_over(self) -> None:
        """Make another node the primary. Returns when Patroni has done so. Raises PostgresError if it refuses."""
        old = self.primary()
        if old is None or self._rest(old, "POST", "switchover", {"leader": old.name}, seconds=START_SECONDS) is None:
            raise postgres.PostgresError(f"Patroni did not switch over.\n{self.log_ends()}")

    def _rest(
        self, node: Node, method: str, path: str, body: Any = None, seconds: float = REST_SECONDS
    ) -> dict[str, Any] | None:
        """The JSON of a response with the status 200; None for any other response, or if there is none."""
        token = base64.b64encode(f"ledger:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{HOST}:{node.rest_port}/{path}", content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                text = response.read()
        except OSError:
            return None
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:  # a sentence in English
            return {}
        return found

    def await_complete(self) -> None:
        """Wait until the cluster is complete. Raises PostgresError with the end of the logs if it is not."""
        until = time.monotonic() + START_SECONDS
        while not self.is_complete():
            ended = any(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in self.pids.values())
            if ended or time.monotonic() > until:
                reason = "A program has ended." if ended else f"The cluster is not complete after {START_SECONDS} s."
                raise postgres.PostgresError(f"{reason}\n{self.log_ends()}")
            time.sleep(POLL_SECONDS)

    def log_ends(self) -> str:
        """The last lines of each log, because the logs are deleted."""
        ends = []
        for path in sorted(self.home.glob("*.log")):
            ends += [path.name, *(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-12:])]
        return "\n".join(ends)


def find_etcd() -> str:
    """The path of etcd. Raises PostgresError with what to install."""
    if found := shutil.which("etcd"):
        return found
    raise postgres.PostgresError(NO_ETCD)


@contextlib.contextmanager
def running(synchronous_mode: str | bool = "quorum", through: Through = directly) -> Iterator[Cluster]:
    """A complete cluster with the roles and the empty database of the ledger, during the block.

    `synchronous_mode` is that of Patroni. `through` returns the port under which others reach a port of a node, and
    under which the node reaches etcd: a test puts proxies there, which it can cut. Raises PostgresError or OSError.
    """
    find_etcd()
    chosen, account = postgres.best(postgres.installations()), postgres.server_account()
    with contextlib.ExitStack() as stack:
        client_port, peer_port, *ports = stack.enter_context(reserved_ports(2 + 2 * len(NODES)))
        home = Path(tempfile.mkdtemp(prefix="ledger-cluster-", dir=TEMPORARY))
        keeper = stack.enter_context(_keeper(home))
        home.chmod(0o711 if account else 0o700)
        nodes = _place_nodes(home, client_port, ports, through)
        binaries = postgres.reachable_binaries(chosen.resolve(), account)
        started = Cluster(home, binaries, account, *cluster_python.prepare(account), nodes, keeper)
        for name in ("etcd", *NODES):
            _make_directory(home / name, account)
        started.start_etcd(client_port, peer_port)
        for node in nodes:
            settings = node_settings(started, node, synchronous_mode)
            path = node.directory / "patroni.json"  # JSON is also YAML
            path.write_text(json.dumps(settings, indent=2))
            _own(path, account)
            started.start_node(node)
        started.await_complete()
        _create_database(started)
        yield started


def _place_nodes(home: Path, etcd_port: int, ports: list[int], through: Through) -> tuple[Node, ...]:
    """The nodes, each with two of these ports."""
    nodes = []
    for name, postgres_port, rest_port in zip(NODES, ports[::2], ports[1::2], strict=True):
        reached = through(name, postgres_port), through(name, rest_port), through(name, etcd_port)
        nodes.append(Node(name, home / name, postgres_port, rest_port, *reached))
    return tuple(nodes)


@contextlib.contextmanager
def _keeper(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The keeper of a cluster, which ends all its processes and removes the directory after the block."""
    # -I: the modules beside the keeper do not hide those of the standard library.
    command = [sys.executable, "-I", str(Path(__file__).absolute().with_name("cluster_keeper.py")), str(home)]
    pipe = subprocess.PIPE
    # In its own session, neither the keeper nor the servers get the SIGINT of Ctrl-C in the terminal.
    keeper = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/", start_new_session=True)
    try:
        yield keeper
    finally:
        keeper.communicate()


def node_settings(cluster: Cluster, node: Node, synchronous_mode: str | bool) -> dict[str, Any]:
    """The configuration of a node's Patroni."""
    login = {"password": cluster.password}
    return {
        "scope": "ledger",
        "name": node.name,
        "restapi": {
            "listen": f"{HOST}:{node.rest_port}",
            "connect_address": f"{HOST}:{node.reached_rest_port}",
            "authentication": {"username": "ledger", **login},
        },
        # use_proxies: connect to this address only, and not to the one that etcd advertises
        "etcd3": {"hosts": [f"{HOST}:{node.etcd_port}"], "use_proxies": True},
        "bootstrap": first_settings(postgres.major(cluster.binaries), synchronous_mode),
        "postgresql": {
            "listen": f"{HOST}:{node.postgres_port}",
            "connect_address": f"{HOST}:{node.reached_postgres_port}",
            "bin_dir": str(cluster.binaries),
            "data_dir": str(node.data),
            "pgpass": str(node.directory / "pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", **login},
                "replication": {"username": "replicator", **login},
            },
            "basebackup": ["no-sync", {"checkpoint": "fast"}],
            "parameters": {"unix_socket_directories": ""},
        },
    }


def first_settings(major: int, synchronous_mode: str | bool) -> dict[str, Any]:
    """What the first node writes to etcd for all nodes, and its options of initdb. docs/scaling.md has the reasons."""
    options: list[Any] = [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync", "data-checksums"]  # for pg_rewind
    if major >= 17:
        options += [{"locale-provider": "builtin"}, {"builtin-locale": "C.UTF-8"}]
    access = [f"host {database} all {HOST}/32 scram-sha-256" for database in ("all", "replication")]
    dynamic = {
        "ttl": TTL_SECONDS,
        "loop_wait": LOOP_WAIT_SECONDS,
        "retry_timeout": RETRY_TIMEOUT_SECONDS,
        "synchronous_mode": synchronous_mode,
        "synchronous_mode_strict": bool(synchronous_mode),
        "postgresql": {"use_pg_rewind": True, "parameters": {"max_connections": 200}, "pg_hba": access},
    }
    return {"dcs": dynamic, "initdb": options}


def _create_database(cluster: Cluster) -> None:
    """Create the roles and the database of the ledger, as for any other PostgreSQL of this repository."""
    with psycopg.connect(cluster.url("postgres", "postgres"), autocommit=True) as superuser:
        for statement in postgres_keeper.ROLES.format(password=cluster.password).splitlines():
            superuser.execute(statement.encode())


def _make_directory(path: Path, account: dict[str, Any]) -> None:
    path.mkdir(mode=0o700)
    _own(path, account)


def _own(path: Path, account: dict[str, Any]) -> None:
    """Give the file or directory to the account of the servers, and to no other."""
    path.chmod(0o700)
    if account:
        os.chown(path, account["user"], account["group"])


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports that the system gives to no other process during the block.

    They are bound without listening. A server that sets SO_REUSEADDR, as these do, can bind them too.
    """
    with contextlib.ExitStack() as stack:
        reservations = [stack.enter_context(socket.socket()) for _ in range(count)]
        for reservation in reservations:
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reservation.bind((HOST, 0))
        yield [reservation.getsockname()[1] for reservation in reservations]


if __name__ == "__main__":
    sys.exit(main())
