"""`make bench-leader`: the cluster it measures is what it says, and a missed target is told from one that is met."""

from dataclasses import replace

import pytest

from crds.blocks import block_from_wire
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT, IP_POOL
from e2e.apiserver.storage import Store
from e2e.bench.crowded import IP_NODES, POOLS, Shape, beat, fill, lacks
from e2e.bench.leader import Findings, Look, look_of, rows
from e2e.bench.measure import Series
from ipam.addresses import Family
from ipam.ranges import RangeSet
from leader.views import ENDPOINT_VIEW, POD_VIEW

SHAPE = Shape(nodes=50, pods=1500)
MS = 1_000_000


@pytest.fixture(scope="module")
def store() -> Store:
    full = Store()
    fill(full, SHAPE)
    return full


def test_every_pod_has_a_spider_endpoint_of_its_own_uid_node_and_address(store: Store) -> None:
    pods = store.collection("/pods").records
    endpoints = store.collection("spiderpool.spidernet.io/spiderendpoints").records
    assert len(pods) == SHAPE.pods and set(pods) == set(endpoints)
    addresses = set()
    for key, record in pods.items():
        pod = POD_VIEW.from_builtins(record.obj)
        ENDPOINT.from_builtins(endpoints[key].obj)  # as an agent writes them
        status = ENDPOINT_VIEW.from_builtins(endpoints[key].obj).status
        assert status and (status.current.uid, status.current.node) == (pod.uid, pod.spec.node_name)
        assert pod.status.pod_ips and status.current.ips[0].ipv4 == f"{pod.status.pod_ips[0].ip}/16"
        addresses.add(pod.status.pod_ips[0].ip)
    assert len(addresses) == SHAPE.pods


def test_every_address_of_every_pool_is_leased_and_some_nodes_lack_some(store: Store) -> None:
    blocks = [IP_BLOCK.from_builtins(one.obj) for one in store.collection("nephila.io/ipblocks").records.values()]
    pools = [
        IP_POOL.from_builtins(one.obj)
        for one in store.collection("spiderpool.spidernet.io/spiderippools").records.values()
    ]
    size = sum(RangeSet.parse(Family.V4, pool.spec.ips).size for pool in pools)
    leased = sum(lease.slots.bit_count() for block in blocks for lease in block_from_wire(block).leases)
    assert leased == size == POOLS * SHAPE.pages * 64
    boxes = [IP_NODE.from_builtins(one.obj) for one in store.collection(IP_NODES).records.values()]
    assert len(boxes) == SHAPE.nodes
    needy = [box for box in boxes if box.status and any(pool.wanted > pool.free for pool in box.status.pools)]
    assert len(needy) == sum(map(lacks, range(SHAPE.nodes))) == 2
    assert all(len(box.status.pools) == POOLS for box in boxes if box.status)


def test_a_heartbeat_changes_nothing_but_itself(store: Store) -> None:
    before = store.collection(IP_NODES).records["", "node-3"].obj
    beat(store, 3)
    after = store.collection(IP_NODES).records["", "node-3"].obj
    assert after["status"]["heartbeat"]["sequence"] == before["status"]["heartbeat"]["sequence"] + 1
    assert after["status"]["pools"] == before["status"]["pools"]
    assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]


def test_a_cluster_that_would_not_fit_its_addresses_is_refused() -> None:
    with pytest.raises(ValueError, match="33 at most"):
        Shape(10, 1000)
    with pytest.raises(ValueError, match="5000 at most"):
        Shape(6000, 6000)


def test_a_scrape_tells_whether_its_process_leads() -> None:
    standby = "nephila_leader 0.0\nnephila_leader_term 3.0\n"
    assert look_of(standby) is None
    leader = standby + (
        "nephila_leader_plan_seconds 0.02\n"
        'nephila_leader_pass_seconds{controller="recalls"} 0.3\nnephila_leader_pass_seconds{controller="pins"} 9.0\n'
        "# TYPE nephila_leader_passes counter\n"
        'nephila_leader_passes_total{controller="recalls"} 12.0\nnephila_leader_passes_total{controller="pins"} 1.0\n'
        "# TYPE nephila_leader_recalls counter\nnephila_leader_recalls_total 600.0\n"
    )
    assert look_of(leader) == Look(0.02, 0.3, 12, 600)


def series(*elapsed_ms: int, failed: int = 0) -> Series:
    return Series("nephila", "", "ADD", [value * MS for value in elapsed_ms], [], failed)


GOOD = Findings(
    filled_s=5.0,
    to_reign_s=9.0,
    looks=[Look(0.02, 0.3, 12, 600)],
    rss_mib=600.0,
    peak_mib=700.0,
    standby_peak_mib=650.0,
    failover_s=13.0,
    before=series(1, 2, 30),
    meanwhile=series(1, 2, 200),
)


def test_a_run_within_all_targets_misses_none() -> None:
    assert all(row.met in (True, None) for row in rows(GOOD))


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, looks=[Look(0.02, 1.2, 12, 600)]),
        replace(GOOD, looks=[]),
        replace(GOOD, looks=[Look(0.02, 0.3, 12, 0)]),  # nothing was recalled: no pass worth the name
        replace(GOOD, peak_mib=1025.0),
        replace(GOOD, standby_peak_mib=1025.0),
        replace(GOOD, failover_s=15.1),
        replace(GOOD, before=series(1, 2, 30, failed=1)),
        replace(GOOD, meanwhile=series(1, 2, 251)),
        replace(GOOD, meanwhile=series(1, 2, 3, failed=1)),
    ],
)
def test_each_target_is_missed_by_itself(bad: Findings) -> None:
    assert sum(row.met is False for row in rows(bad)) == 1


def test_nothing_asked_while_nobody_led_shows_nothing() -> None:
    assert any(row.met is False for row in rows(replace(GOOD, meanwhile=series())))
