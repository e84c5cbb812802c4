"""The leader's metrics under Spiderpool's documented names (compatibility facts, section 7.2: those of its controller)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from adapters.families import gauge
from adapters.spiderpool_metrics import GC, GC_FAILURES
from crds import convert
from crds.meta import UNSET, UnsetType
from leader.leader import Leader, Reign

POOLS = gauge("spiderpool_total_ippool_counts", "SpiderIPPool objects.")
SUBNETS = gauge("spiderpool_total_subnet_counts", "SpiderSubnet objects.")
CONTROLLER_FAMILIES = (GC, GC_FAILURES, POOLS, SUBNETS)

POOL_TOTAL = gauge("spiderpool_debug_ippool_total_ip_counts", "Addresses of the pool.", "SpiderIPPool")
POOL_AVAILABLE = gauge("spiderpool_debug_ippool_available_ip_counts", "Of these, not allocated.", "SpiderIPPool")
SUBNET_POOLS = gauge("spiderpool_debug_subnet_ippool_counts", "Pools made from the Subnet.", "SpiderSubnet")
SUBNET_TOTAL = gauge("spiderpool_debug_subnet_total_ip_counts", "Addresses of the Subnet.", "SpiderSubnet")
SUBNET_AVAILABLE = gauge(
    "spiderpool_debug_subnet_available_ip_counts", "Of these, not in a pool of its own.", "SpiderSubnet"
)
DEBUG_FAMILIES = (POOL_TOTAL, POOL_AVAILABLE, SUBNET_POOLS, SUBNET_TOTAL, SUBNET_AVAILABLE)


class SpiderpoolLeaderCollector(Collector):
    """Only the leader shows anything, so that sums over all candidates are right."""

    def __init__(self, leader: Leader, *, debug: bool = False) -> None:
        self._leader = leader
        self._debug = debug

    def collect(self) -> Iterator[Metric]:
        reign = self._leader.reign
        if reign is None:
            return
        yield GC.value(reign.reclaim.taken)
        yield GC_FAILURES.value(sum(loop.failures for loop in reign.loops if loop.name == "reclaim"))
        yield POOLS.value(len(reign.sight.pools))
        yield SUBNETS.value(len(reign.workloads.subnets))
        if self._debug:
            yield from self._details(reign)

    def _details(self, reign: Reign) -> Iterator[Metric]:
        counts = sorted(reign.pools.counts.items())
        yield POOL_TOTAL.samples(((name,), found.total) for name, found in counts)
        yield POOL_AVAILABLE.samples(((name,), found.total - found.allocated) for name, found in counts)
        subnets = sorted(reign.workloads.subnets, key=lambda stored: stored.name)
        owners = [pool.labels.get(convert.OWNER_SUBNET) for pool in reign.sight.pools]
        yield SUBNET_POOLS.samples(((stored.name,), owners.count(stored.name)) for stored in subnets)
        known = [(stored.name, stored.status) for stored in subnets if stored.status is not UNSET]
        yield SUBNET_TOTAL.samples(((name,), _number(status.total_ip_count)) for name, status in known)
        yield SUBNET_AVAILABLE.samples(
            ((name,), _number(status.total_ip_count) - _number(status.allocated_ip_count)) for name, status in known
        )


def _number(value: int | UnsetType) -> int:
    return 0 if value is UNSET else value
