"""Writes `SpiderEndpoint` objects after the CNI reply: one per pod, derived from what the pod holds when it is sent (level-triggered).

The journal names the pods whose object is out of date; an entry is dropped only when the API shows what it should. So a crash, an API outage or an
unknown outcome costs a repeat, never a loss. Bounded concurrency, back-off per entry with jitter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.journal import DropOutbox, Journal, OutboxRecord
from adapters.kube.store import Deleted, Exists, Missing, Store, Stored, StoreError
from crds.core import POD, Pod
from crds.meta import UNSET, ObjectMeta, OwnerReference
from crds.spiderpool import ENDPOINT, EndpointStatus, IPAllocation, PodIPAllocation, SpiderEndpoint
from crds.spiderpool import Route as WireRoute
from ipam.addresses import Family
from ipam.catalog import Catalog
from ipam.errors import NephilaError
from ipam.owners import TopOwner
from nodeagent.allocator import Allocator, Attachment
from nodeagent.ownership import Ownership
from nodeagent.world import World

log = structlog.get_logger(__name__)

WORKERS = 8
SETTLE_S = 0.1  # what happens to a pod within this time is told once, and not while a burst of ADDs wants the processor
BACKOFF_S = (0.2, 30.0)  # first and longest pause between two tries of one entry


class Outbox:
    """Run `run()` as a task; `mark` after every change of a pod's addresses (the allocator has journalled it already)."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        clock: Clock,
        entropy: Entropy,
        allocator: Allocator,
        world: World,
        ownership: Ownership,
        node: str,
    ) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock
        self._entropy = entropy
        self._allocator = allocator
        self._world = world
        self._ownership = ownership
        self._node = node
        self._due: dict[str, str] = {}
        self._busy: set[str] = set()
        self._work = asyncio.Event()

    @property
    def depth(self) -> int:
        return len(self._due) + len(self._busy)

    def restore(self, records: Iterable[OutboxRecord]) -> None:
        for record in records:
            self.mark(record.key, record.pod_uid)

    def mark(self, key: str, pod_uid: str) -> None:
        """The SpiderEndpoint of pod `key` (namespace/name) must be looked at."""
        self._due[key] = pod_uid
        self._work.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._worker(), name="outbox")

    async def _worker(self) -> None:
        while True:
            key = next((key for key in self._due if key not in self._busy), None)
            if key is None:
                self._work.clear()
                await self._work.wait()
                await self._clock.sleep(SETTLE_S)
                continue
            uid = self._due.pop(key)
            self._busy.add(key)
            try:
                await self._deliver(key, uid)
            finally:
                self._busy.discard(key)

    async def _deliver(self, key: str, uid: str) -> None:
        pause, longest = BACKOFF_S
        while True:
            try:
                await self._bring_about(key, uid)
            except (StoreError, NephilaError) as error:
                log.warning("endpoint_write_failed", pod=key, error=str(error))
            else:
                self._journal.commit([DropOutbox(key, uid)])
                return
            await self._clock.sleep(pause * self._entropy.uniform(1.0, 2.0))
            pause = min(2 * pause, longest)

    async def _bring_about(self, key: str, uid: str) -> None:
        """Make the object say what the pod holds here now. Raises StoreError or NephilaError: try again."""
        namespace, name = key.split("/", 1)
        attachments = self._allocator.of_pod(uid)
        if not attachments:
            await self._remove(namespace, name, uid)
            return
        pod = self._world.pods.get(name, namespace)
        if pod is None or pod.uid != uid:
            pod = await self._store.get(POD, name, namespace)
        if pod is None or pod.uid != uid:
            return  # the pod is gone: so is its endpoint, by ownerReference; DEL or the reconciler will free the address
        await self._write(pod, attachments)

    async def _write(self, pod: Pod, attachments: tuple[Attachment, ...]) -> None:
        wanted = endpoint(pod, await self._ownership.of(pod), self._node, attachments, self._world.pools.catalog)
        outcome = await self._store.create(ENDPOINT, wanted)
        if isinstance(outcome, Exists):
            changes: dict[str, Any] = {"status": msgspec.to_builtins(wanted.status), "metadata": {}}
            changes["metadata"]["ownerReferences"] = msgspec.to_builtins(wanted.metadata.owner_references)
            outcome = await self._store.patch(ENDPOINT, pod.name, changes, namespace=pod.namespace)
        if not isinstance(outcome, Stored):
            raise StoreError(f"SpiderEndpoint {pod.namespace}/{pod.name}: {outcome}")

    async def _remove(self, namespace: str, name: str, uid: str) -> None:
        """Only if it is still about our pod: a new pod of that name may have written its own."""
        present = await self._store.get(ENDPOINT, name, namespace)
        if present is None or (present.status is not UNSET and present.status.current.uid != uid):
            return
        outcome = await self._store.delete(
            ENDPOINT, name, namespace=namespace, uid=present.uid, resource_version=present.resource_version
        )
        if not isinstance(outcome, Deleted | Missing | Stored):
            raise StoreError(f"SpiderEndpoint {namespace}/{name}: {outcome}")


def endpoint(
    pod: Pod, owner: TopOwner, node: str, attachments: Iterable[Attachment], catalog: Catalog
) -> SpiderEndpoint:
    """The object that describes a pod's addresses, as Spiderpool documents it."""
    return SpiderEndpoint(
        metadata=ObjectMeta(
            name=pod.name,
            namespace=pod.namespace,
            owner_references=(
                OwnerReference(api_version="v1", kind="Pod", name=pod.name, uid=pod.uid, block_owner_deletion=True),
            ),
        ),
        status=EndpointStatus(
            current=PodIPAllocation(
                uid=pod.uid, node=node, ips=tuple(_allocation(attachment, catalog) for attachment in attachments)
            ),
            owner_controller_type=owner.kind,
            owner_controller_name=owner.name,
        ),
    )


def _allocation(attachment: Attachment, catalog: Catalog) -> IPAllocation:
    fields: dict[str, Any] = {"interface": attachment.key.ifname}
    routes: list[WireRoute] = []
    for grant in attachment.grants:
        pool = catalog.get(grant.pool)
        family = "ipv4" if grant.slot.family is Family.V4 else "ipv6"
        prefix = pool.subnet.prefix if pool else grant.slot.family.bits
        fields[family] = f"{grant.slot.address}/{prefix}"
        fields[f"{family}_pool"] = grant.pool
        if pool is not None and pool.gateway is not None:
            fields[f"{family}_gateway"] = str(pool.gateway)
        routes += [WireRoute(dst=str(route.dst), gw=str(route.gw)) for route in (pool.routes if pool else ())]
    return IPAllocation(**fields, routes=tuple(routes))
