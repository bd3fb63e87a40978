"""The primary fails: no acknowledged transfer is lost, and the service connects to the new primary."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dev import cluster as clusters
from dev.cluster import Cluster, Node
from service.ledger import audit
from service.migrate import runner
from service.migrate.files import read_files
from tests.support import failover, live
from tests.support.failover import Callers, PromotionWatch
from tests.support.network import Network
from tests.support.threads import Call
from tests.support.waiting import attempts, wait_until

TRANSFERS = 200  # acknowledged before the fault, and after the promotion
RECOVERY_SECONDS = 3.0  # from the promotion until the first write is acknowledged
TRIES = 3  # a machine that is busy with other tests may be slower once
Fault = Callable[[Node], None]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """The connections of the nodes to etcd and to each other, and of the service to the nodes."""
    with contextlib.closing(Network()) as started:
        yield started


@pytest.fixture(scope="module")
def migrated(network: Network) -> Iterator[Cluster]:
    """A cluster with `synchronous_mode: quorum`, and the schema of the ledger."""
    with a_migrated_cluster("quorum", network) as started:
        yield started


@pytest.fixture
def cluster(migrated: Cluster, network: Network) -> Iterator[Cluster]:
    """The cluster, with all its nodes. After the test, the audit finds no error."""
    make_whole(migrated, network)
    yield migrated
    with psycopg.connect(migrated.url("ledger_owner"), autocommit=True) as connection:
        assert audit.run(connection).errors == []


def make_whole(cluster: Cluster, network: Network) -> None:
    """End all faults, and wait until there are a primary and two standbys."""
    network.restore()
    for node in cluster.nodes:
        failover.revive(cluster, node)
    cluster.await_complete()


@contextlib.contextmanager
def a_migrated_cluster(synchronous_mode: str | bool, network: Network) -> Iterator[Cluster]:
    if not shutil.which("etcd"):
        pytest.skip(clusters.NO_ETCD)
    with clusters.running(synchronous_mode, network.through) as started:
        with psycopg.connect(started.url("ledger_owner"), autocommit=True) as owner:
            runner.up(owner, read_files())
        yield started


@pytest.fixture
def service(cluster: Cluster, environment: dict[str, str]) -> Iterator[live.Live]:
    """A service process with the URL of all three nodes."""
    with live.serving(environment | {"DATABASE_URL": cluster.url("ledger_service")}) as started:
        yield started


def fail_over(cluster: Cluster, service: live.Live, name: str, fault: Fault) -> tuple[Callers, float]:
    """Cause the fault on the primary while callers post, and check that nothing is lost.

    Returns the callers, and the seconds from the promotion until the first of them was served.
    """
    primary = cluster.primary()
    assert primary is not None
    watch = PromotionWatch(cluster, [node for node in cluster.nodes if node != primary])
    callers = Callers(service.url, f"{name}-{time.monotonic_ns()}")
    callers.start()
    callers.await_posted(TRANSFERS)
    failed_at = time.monotonic()
    fault(primary)
    promoted, promoted_at = watch.await_promotion()
    wait_until(lambda: callers.all_served_since(promoted_at), "every caller is served by the new primary")
    callers.await_posted(TRANSFERS)
    callers.stop()
    first, last = callers.seconds_until_served(promoted_at)
    print(
        f"{name}: promoted after {promoted_at - failed_at:.1f} s; first caller served {first:.2f} s, last caller"
        f" {last:.2f} s after the promotion; {len(callers.acknowledged):,} acknowledged"
    )
    assert callers.unexpected == []
    assert failover.lost(callers, cluster.direct_url("ledger_owner", promoted)) == []
    wait_until(service.is_ready, "the service is ready")
    return callers, first


def recovers_in_time(cluster: Cluster, network: Network, service: live.Live, name: str, fault: Fault) -> bool:
    """Whether the service recovers within RECOVERY_SECONDS in one of several failovers.

    A node that comes back after a failover changes nothing.
    """
    for _ in range(TRIES):
        callers, seconds = fail_over(cluster, service, name, fault)
        if seconds <= RECOVERY_SECONDS and fault is failover.kill:  # the old primary is not running
            return True
        make_whole(cluster, network)
        assert failover.lost(callers, cluster.url("ledger_owner")) == []
        if seconds <= RECOVERY_SECONDS:
            return True
    return False


@pytest.mark.slow
@pytest.mark.promise(1)
def test_no_acknowledged_transfer_is_lost_if_the_primary_is_killed(
    cluster: Cluster, network: Network, service: live.Live
) -> None:
    """Patroni and PostgreSQL of the primary end by SIGKILL; the new primary serves callers within 3 s."""
    assert recovers_in_time(cluster, network, service, "kill", failover.kill)


@pytest.mark.faults
@pytest.mark.promise(1)
def test_no_acknowledged_transfer_is_lost_if_the_primary_is_frozen(
    cluster: Cluster, network: Network, service: live.Live
) -> None:
    """All processes of the primary stop, and run again after the failover."""
    assert recovers_in_time(cluster, network, service, "freeze", failover.freeze)


@pytest.mark.faults
@pytest.mark.promise(1)
def test_no_acknowledged_transfer_is_lost_if_the_primary_is_isolated(
    cluster: Cluster, network: Network, service: live.Live
) -> None:
    """The primary runs, but no packet reaches it or leaves it until the failover is over."""
    assert recovers_in_time(cluster, network, service, "isolate", lambda node: network.cut_off(node.name))


@pytest.mark.faults
@pytest.mark.promise(1)
def test_no_acknowledged_transfer_is_lost_in_a_switchover(
    cluster: Cluster, network: Network, service: live.Live
) -> None:
    """On demand, the primary becomes a standby and another node the primary."""
    assert recovers_in_time(cluster, network, service, "switchover", lambda node: cluster.switch_over())


@pytest.mark.faults
@pytest.mark.promise(1)
def test_an_isolated_primary_answers_reads_and_acknowledges_no_write(
    cluster: Cluster, network: Network, environment: dict[str, str]
) -> None:
    """A service on the side of the isolated primary returns 503 to each write, and 200 to reads until the demotion."""
    primary = cluster.primary()
    assert primary is not None
    watch = PromotionWatch(cluster, [node for node in cluster.nodes if node != primary])
    url = f"{cluster.direct_url('ledger_service', primary)}?target_session_attrs=read-write"
    with live.serving(environment | {"DATABASE_URL": url}) as beside:
        callers = Callers(beside.url, f"beside-{time.monotonic_ns()}")
        callers.start()
        callers.await_posted(TRANSFERS)
        callers.stop()
        network.cut_off(primary.name)
        isolated_at = time.monotonic()
        body = {"from": "a", "to": "b", "amount": 1, "currency": "EUR"}
        write = Call(lambda: beside.request("PUT", f"/v1/transfers/{callers.name}-refused", body))
        read_at = isolated_at
        for _ in attempts("the old primary is demoted"):
            if beside.request("GET", "/v1/accounts/a")[0] != 200:
                break
            read_at = time.monotonic()
        assert read_at > isolated_at
        print(f"isolated: reads were answered for {read_at - isolated_at:.1f} s")
        status, problem = write.result()
        assert (status, problem["outcome"]) == (503, "unknown")
        status, problem = beside.request("PUT", f"/v1/transfers/{callers.name}-refused", body)
        assert (status, problem["outcome"]) == (503, "not_applied")
    promoted, _ = watch.await_promotion()
    assert failover.lost(callers, cluster.direct_url("ledger_owner", promoted)) == []


@pytest.mark.faults
def test_without_synchronous_replication_acknowledged_transfers_are_lost(environment: dict[str, str]) -> None:
    """The same check finds lost transfers if the cluster confirms commits that no standby has."""
    with contextlib.closing(Network()) as network, a_migrated_cluster(False, network) as cluster:
        primary = cluster.primary()
        assert primary is not None
        watch = PromotionWatch(cluster, [node for node in cluster.nodes if node != primary])
        url = cluster.direct_url("ledger_service", primary)
        with live.serving(environment | {"DATABASE_URL": url}) as beside:
            callers = Callers(beside.url, "asynchronous")
            callers.start()
            callers.await_posted(TRANSFERS)
            network.cut_off(primary.name)
            callers.await_posted(TRANSFERS)
            callers.give_up()
            failover.kill(primary)
        promoted, _ = watch.await_promotion()
        lost = failover.lost(callers, cluster.direct_url("ledger_owner", promoted))
        print(f"asynchronous: {len(lost):,} of {len(callers.acknowledged):,} acknowledged transfers are lost")
        assert lost != []
