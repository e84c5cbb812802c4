"""What administrators do to pools and reserved addresses: ranges, exclusions, affinities, `disable`, deletion and re-creation under the same name.

Some edits stand when the faults are over (`standing`): what the program makes of them shows when all is quiet.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from crds.core import Pod
from crds.spiderpool import IP_POOL, RESERVED_IP
from ipam.addresses import Family
from ipam.slots import SlotId
from sim.facts import endpoints
from sim.outages import Begin, Recreate
from sim.plan import IDENTITY, PlannedPool

if TYPE_CHECKING:
    from sim.world import World

EDITS = ("pool-edit", "pool-delete", "affinity-edit", "reserve")
LOOK_S = 2.0  # how often an administrator looks whether a deleted pool is gone
UNEDITED = {"disable": False, "nodeName": None, "nodeAffinity": None, "namespaceName": None}
HOSTNAME = "kubernetes.io/hostname"
RESERVATIONS = 3  # objects at a time


class Edits:
    """`begin` starts a task that the end of the hostile phase ends; `recreate` makes a pod of the StatefulSet anew once it is gone."""

    def __init__(self, world: World, begin: Begin, recreate: Recreate) -> None:
        self._world = world
        self._begin = begin
        self._recreate = recreate
        self._random = random.Random(f"{world.seed}/edits")
        self._ending: set[str] = set()
        self._reserved: dict[str, frozenset[SlotId]] = {}  # by object
        self._nodes: dict[str, tuple[str, ...]] = {}  # by pool: on which nodes alone it may serve
        self._number = 0

    # What is true now ----------------------------------------------------------------------------------------------------------------

    def serves(self, pool: PlannedPool, node: str) -> bool:
        """Whether the pool's affinity, as it stands once the faults are over, lets it serve pods of the node."""
        return node in self._nodes.get(pool.name, (node,))

    def lets(self, node: str, slot: SlotId) -> bool:
        """Whether some pool lets the node give the address to a pod that has none yet."""
        pools = self._world.plan.pools
        return slot not in self.reserved and any(pool.issues(slot) and self.serves(pool, node) for pool in pools)

    def may_lack(self, pod: str, families: set[Family]) -> bool:
        """A pod that asks for no pool by name gets what default pools there are; one family's may be deleted."""
        return bool(families) and pod.startswith(("main-", IDENTITY)) and self._world.faults.has("pool-delete")

    @property
    def reserved(self) -> frozenset[SlotId]:
        return frozenset().union(*self._reserved.values())

    def withheld(self, pool: PlannedPool) -> int:
        """How many of the pool's addresses are reserved."""
        return sum(pool.issues(slot) for slot in self.reserved)

    def unfinished(self) -> list[tuple[str, str]]:
        """Pools that were deleted and are not gone, or not there again."""
        missing = [pool for pool in self._world.plan.pools if self._is_missing(pool)]
        return [("I7", f"pool {pool.name} is still being deleted, or was not made again") for pool in missing]

    # Edits ---------------------------------------------------------------------------------------------------------------------------

    def edit_range(self, source: random.Random) -> None:
        pool = source.choice(self._world.plan.pools)
        first, last = sorted(source.sample(range(pool.first, pool.last + 1), 2))
        spec = source.choice(
            (
                {"ips": [pool.text(first, last)]},
                {"ips": [pool.text(pool.first, pool.last)]},
                {"excludeIPs": [*pool.spec["excludeIPs"], pool.text(first, last)]},
                {"excludeIPs": pool.spec["excludeIPs"]},
                {"disable": True},
                {"disable": False},
            )
        )
        self._patch(pool, spec)

    def edit_affinity(self, source: random.Random) -> None:
        """Some nodes only, by name or by label; other namespaces only; or everybody again."""
        pool, nodes = source.choice(self._world.plan.pools), self._some_nodes(source)
        expression = {"key": HOSTNAME, "operator": "In", "values": list(nodes)}
        spec = source.choice(
            (
                {"nodeName": list(nodes)},
                {"nodeName": None},
                {"nodeAffinity": {"matchExpressions": [expression]}},
                {"nodeAffinity": None},
                {"namespaceName": ["elsewhere"]},
                {"namespaceName": None},
            )
        )
        self._patch(pool, spec)

    def reserve(self, source: random.Random) -> None:
        """A SpiderReservedIP comes or goes."""
        if self._reserved and (len(self._reserved) >= RESERVATIONS or source.random() < 0.4):
            self._unreserve(source.choice(list(self._reserved)))
            return
        pool = source.choice(self._world.plan.pools)
        first = source.randint(pool.first, pool.last)
        last = min(first + source.choice((0, 1, 3)), pool.last)
        self._number += 1
        name = f"r{self._number}"
        spec = {"ipVersion": int(pool.family), "ips": [pool.text(first, last)]}
        self._reserved[name] = frozenset(SlotId("", pool.family, value) for value in range(first, last + 1))
        self._world.trace("reserved", name=name, spec=spec)
        self._world.cluster.create(RESERVED_IP, RESERVED_IP.from_builtins({"metadata": {"name": name}, "spec": spec}))

    def _unreserve(self, name: str) -> None:
        del self._reserved[name]
        self._world.trace("unreserved", name=name)
        self._world.cluster.delete(RESERVED_IP, ("", name), uid="", resource_version="")

    def delete_pool(self, source: random.Random) -> None:
        pool = source.choice(self._world.plan.pools)
        if pool.name not in self._ending:
            self._begin(self._replace(pool, drains=source.random() < 0.6, rest_s=source.choice((0.0, 1.0, 10.0))))

    async def _replace(self, pool: PlannedPool, *, drains: bool, rest_s: float) -> None:
        """Deleted, gone once no pod has an address of it, and made anew. `drains`: the administrator sees to it that they end."""
        self._ending.add(pool.name)
        self._world.trace("pool_deleted", pool=pool.name, drains=drains)
        key = ("", pool.name)
        self._world.cluster.delete(IP_POOL, key, uid="", resource_version="")
        while self._world.cluster.read(IP_POOL, key) is not None:
            if drains:
                self._drain(pool)
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(rest_s)
        self._create(pool)

    def _create(self, pool: PlannedPool) -> None:
        spec = {**pool.spec, **self._standing(pool)}
        self._world.cluster.create(IP_POOL, IP_POOL.from_builtins({"metadata": {"name": pool.name}, "spec": spec}))
        self._world.trace("pool_created", pool=pool.name)
        self._ending.discard(pool.name)

    def _drain(self, pool: PlannedPool) -> None:
        """Their controllers make pods in place of those that have an address of the pool."""
        for pod in self._users(pool):
            self._world.delete_pod(pod)
            if pod.name.startswith(IDENTITY):
                self._begin(self._recreate(pod.name))
            else:
                self._number += 1
                kind = pod.name.partition("-")[0]
                self._world.create_pod(f"{kind}-e{self._number}", self._random.choice(self._world.plan.nodes))

    def _users(self, pool: PlannedPool) -> list[Pod]:
        """Whom the records name, as `kubectl get se` does."""
        users = {item.pod_uid for item in endpoints(self._world) if pool.issues(item.slot)}
        return [pod for pod in self._world.pods() if pod.uid in users and not pod.deleting]

    # The end of the faults -----------------------------------------------------------------------------------------------------------

    def repair(self) -> None:
        """Pools are as planned, but for the edits that stand."""
        self._ending.clear()
        for name in list(self._reserved):
            if self._random.random() < 0.5:
                self._unreserve(name)
        for pool in self._world.plan.pools:
            if self._world.faults.has("affinity-edit") and self._random.random() < 0.3:
                self._nodes[pool.name] = self._some_nodes(self._random)
            self._patch(pool, {**pool.spec, **UNEDITED, **self._standing(pool)})
            if self._is_missing(pool):
                self._begin(self._replace(pool, drains=True, rest_s=0.0))

    def _is_missing(self, pool: PlannedPool) -> bool:
        entry = self._world.cluster.read(IP_POOL, ("", pool.name))
        return entry is None or entry.object.deleting

    def _standing(self, pool: PlannedPool) -> dict[str, Any]:
        nodes = self._nodes.get(pool.name)
        return {} if nodes is None else {"nodeName": list(nodes)}

    def _some_nodes(self, source: random.Random) -> tuple[str, ...]:
        nodes = self._world.plan.nodes
        return tuple(source.sample(nodes, source.randint(1, len(nodes) - 1)))

    def _patch(self, pool: PlannedPool, spec: dict[str, Any]) -> None:
        self._world.trace("pool_edited", pool=pool.name, spec=spec)
        self._world.cluster.patch(IP_POOL, ("", pool.name), {"spec": spec}, resource_version="", subresource="")
