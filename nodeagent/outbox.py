"""Writes `SpiderEndpoint` objects after the CNI reply: one per pod, derived from what the pod holds when it is sent (level-triggered).

The MAC of a new interface is known a moment after the reply; the write waits for it, at most MAC_WAIT_S, so that it takes one and not two.

The journal names the pods whose object is out of date; an entry is dropped only when the API shows what it should. So a crash, an API outage or an
unknown outcome costs a repeat, never a loss. Bounded concurrency, back-off per entry with jitter; an entry that rests until its next try holds up
no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.journal import DropOutbox, Journal, OutboxRecord, PutOutbox
from adapters.kube.store import Deleted, Exists, Missing, Store, Stored, StoreError
from crds.core import POD, Pod
from crds.meta import UNSET, ObjectMeta, OwnerReference
from crds.spiderpool import ENDPOINT, EndpointStatus, IPAllocation, PodIPAllocation, SpiderEndpoint
from crds.spiderpool import Route as WireRoute
from ipam.addresses import Family
from ipam.catalog import Catalog
from ipam.errors import ApiUnreachable, NephilaError, PodGone
from ipam.owners import TopOwner
from ipam.slots import SlotId
from nodeagent.allocator import Allocator, Attachment, Key
from nodeagent.answers import interface_routes, pod_routes, with_prefix
from nodeagent.claims import Claims
from nodeagent.ownership import Ownership
from nodeagent.podmacs import PodMacs
from nodeagent.world import World

log = structlog.get_logger(__name__)

WORKERS = 8
SETTLE_S = 0.1  # what happens to a pod within this time is told once, and not while a burst of ADDs wants the processor
MAC_WAIT_S = 1.5
LOOK_S = 0.25  # between two looks at entries that wait for a MAC
BACKOFF_S = (0.2, 30.0)  # first and longest pause between two tries of one entry


@dataclass(frozen=True, slots=True)
class _Rest:
    """An entry about this pod could not be delivered, and is left alone until then, in the clock's seconds."""

    pod_uid: str
    until: float
    pause_s: float


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
        record_of: Callable[[Pod], tuple[str, bool]],
        is_clean: Callable[[Pod, str], bool],
        is_shared: Callable[[SlotId], bool],
        claims: Claims,
        macs: PodMacs,
    ) -> None:
        """`record_of`: the name of a pod's SpiderEndpoint, and whether it outlives the pod. `is_shared`: a live migration is not over yet, so that
        the source is who has the address as far as others are told."""
        self._macs = macs
        self._is_clean = is_clean
        self._record_of = record_of
        self._is_shared = is_shared
        self._claims = claims
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._store = store
        self._journal = journal
        self._clock = clock
        self._entropy = entropy
        self._allocator = allocator
        self._world = world
        self._ownership = ownership
        self._node = node
        self._due: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._rests: dict[str, _Rest] = {}
        self._unsaid: set[Key] = set()  # attachments whose MAC is being learnt and was not written yet
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
        self._since.setdefault(key, self._clock.now())
        self._work.set()

    def on_mac(self, attachment: Attachment, _mac: str) -> None:
        """A MAC was learnt that the object may not show: after an ADD whose write did not wait for it, or was made before its reply."""
        if attachment.key in self._unsaid:
            self._unsaid.discard(attachment.key)
            key = f"{attachment.namespace}/{attachment.pod}"
            self._journal.commit([PutOutbox(key, attachment.pod_uid)])
            self.mark(key, attachment.pod_uid)
        self._work.set()

    def is_due(self, key: str) -> bool:
        """True if pod `key`'s SpiderEndpoint may be out of date."""
        return key in self._due or key in self._busy

    async def deliver(self, key: str, uid: str) -> None:
        """Write pod `key`'s SpiderEndpoint now, for those who must tell before they answer. Raises ApiUnreachable, and the workers go on trying;
        PodGone, as nothing can be told of a pod that is no more."""
        try:
            told = await self._once(key, uid)
        except StoreError as error:
            self.mark(key, uid)
            raise ApiUnreachable(f"SpiderEndpoint {key} could not be written: {error}") from error
        self._due.pop(key, None)
        self._since.pop(key, None)
        self._rests.pop(key, None)
        if not told:
            raise PodGone(f"pod {key} does not exist any more")

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._worker(), name="outbox")

    async def _worker(self) -> None:
        while True:
            key, rest = self._next()
            if key is None:
                await self._idle(rest)
                continue
            uid = self._due.pop(key)
            self._since.pop(key, None)
            self._busy.add(key)
            try:
                await self._try(key, uid)
            finally:
                self._busy.discard(key)

    def _next(self) -> tuple[str | None, float]:
        """The entry to deliver now; if there is none, for how many seconds at most it stays so unless something is marked or learnt."""
        rest = float("inf")
        for key in self._due:
            if key not in self._busy:
                wait = self._wait(key)
                if wait <= 0:
                    return key, 0.0
                rest = min(rest, wait)
        return None, rest

    def _wait(self, key: str) -> float:
        """For how many seconds this entry rests, or may gain by waiting for a MAC."""
        uid, now = self._due[key], self._clock.now()
        rest = self._rests.get(key)
        if rest is not None and rest.pod_uid == uid and rest.until > now:
            return rest.until - now
        since = self._since.get(key, float("-inf"))
        return LOOK_S if now - since < MAC_WAIT_S and self._macs.is_learning(uid) else 0.0

    async def _idle(self, seconds: float) -> None:
        self._work.clear()
        alarm = self._clock.alarm(seconds, self._work.set) if seconds < float("inf") else None
        try:
            await self._work.wait()
        finally:
            if alarm is not None:
                alarm.cancel()
        await self._clock.sleep(SETTLE_S)

    async def _try(self, key: str, uid: str) -> None:
        """If it fails it is due again, after a pause; unless it was marked meanwhile for a newer pod, which need not pay for this one."""
        try:
            await self._once(key, uid)
        except (StoreError, NephilaError) as error:
            log.warning("endpoint_write_failed", pod=key, error=str(error))
        else:
            self._rests.pop(key, None)
            return
        first, longest = BACKOFF_S
        before = self._rests.get(key)
        pause = first if before is None or before.pod_uid != uid else min(2 * before.pause_s, longest)
        self._rests[key] = _Rest(uid, self._clock.now() + pause * self._entropy.uniform(1.0, 2.0), pause)
        self._due.setdefault(key, uid)

    async def _once(self, key: str, uid: str) -> bool:
        """One writer per object at a time, so that an older picture never lands after a newer one. False: the pod is gone, nothing was told."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        async with lock:
            if any(self._is_shared(grant.slot) for item in self._allocator.of_pod(uid) for grant in item.grants):
                return True  # told when the source has left (`Pins.settle`), be it after a restart of ours: the entry stays
            told = await self._bring_about(key, uid)
            successor = self._successor(key, uid)
            self._journal.commit([DropOutbox(key, uid), *([PutOutbox(key, successor)] if successor else [])])
            if successor and key not in self._due:
                self.mark(key, successor)
            return told

    def _successor(self, key: str, uid: str) -> str:
        """UID of another pod of the name that has addresses here, "" for none: this entry may have taken the place of its. The present pod has none;
        a former one that still has addresses only the present one, so that two cannot go on calling for each other.
        """
        namespace, name = key.split("/", 1)
        present = self._world.pods.get(name, namespace)
        here = {item.pod_uid for item in self._allocator.all() if (item.namespace, item.pod) == (namespace, name)}
        if present is not None and present.uid in {uid, *here}:
            return "" if present.uid == uid else present.uid
        return "" if uid in here else min(here, default="")

    async def _bring_about(self, key: str, uid: str) -> bool:
        """Make the object say what the pod holds here now; False if the pod is gone. Raises StoreError or NephilaError: try again."""
        namespace, name = key.split("/", 1)
        attachments = self._allocator.of_pod(uid)
        if not attachments:
            await self._remove(namespace, name, uid)
            return True
        pod = self._world.pods.get(name, namespace)
        if pod is None or pod.uid != uid:
            pod = await self._store.get(POD, name, namespace)
        if pod is None or pod.uid != uid:
            return False  # so is its endpoint, by ownerReference; DEL or the reconciler will free the address
        if not await self._write(pod, attachments):
            return False
        for item in attachments:
            await self._claims.tell(pod, item)
        return True

    async def _write(self, pod: Pod, attachments: tuple[Attachment, ...]) -> bool:
        """False, and nothing is written, if the record tells of the present pod of that name already, and this is a former one. Raises StoreError."""
        owner = await self._ownership.of(pod)
        name, keeps = self._record_of(pod)
        catalog = self._world.pools.catalog
        self._note_unsaid(attachments)
        ips = tuple(
            _allocation(item, pod, catalog, self._macs.of(item.key), clean=self._is_clean(pod, item.key.ifname))
            for item in attachments
        )
        wanted = endpoint(name, pod, owner, self._node, ips, outlives_pod=keeps)
        outcome = await self._store.create(ENDPOINT, wanted)
        if isinstance(outcome, Exists):
            present = await self._store.get(ENDPOINT, name, pod.namespace)
            if _is_about_another(present, pod.uid) and not await self._is_current(pod):
                return False
            if keeps:
                wanted = _with_other_interfaces(wanted, present)
            changes: dict[str, Any] = {"status": msgspec.to_builtins(wanted.status), "metadata": {}}
            changes["metadata"]["ownerReferences"] = msgspec.to_builtins(wanted.metadata.owner_references)
            # On what was read: a write of the former pod's node that arrives late must not undo that of the present pod's.
            version = present.resource_version if present is not None else ""
            outcome = await self._store.patch(
                ENDPOINT, name, changes, namespace=pod.namespace, resource_version=version
            )
        if not isinstance(outcome, Stored):
            raise StoreError(f"SpiderEndpoint {pod.namespace}/{name}: {outcome}")
        return True

    async def _is_current(self, pod: Pod) -> bool:
        """Whether it is still the pod of its name: our watch may be behind. Raises StoreError."""
        found = await self._store.get(POD, pod.name, pod.namespace)
        return found is not None and found.uid == pod.uid

    def _note_unsaid(self, attachments: tuple[Attachment, ...]) -> None:
        known = {item.key for item in attachments if self._macs.of(item.key)}
        learning = {item.key for item in attachments if self._macs.is_learning(item.pod_uid)} - known
        self._unsaid = {key for key in self._unsaid - known if self._allocator.get(key) is not None} | learning

    async def _remove(self, namespace: str, name: str, uid: str) -> None:
        """Only if it is still about our pod: a new pod of that name may have written its own. That of an identity stays as long as its pins;
        the leader removes both.
        """
        present = await self._store.get(ENDPOINT, name, namespace)
        if present is None or (present.status is not UNSET and present.status.current.uid != uid):
            return
        if not present.metadata.owner_references:
            return
        outcome = await self._store.delete(
            ENDPOINT, name, namespace=namespace, uid=present.uid, resource_version=present.resource_version
        )
        if not isinstance(outcome, Deleted | Missing | Stored):
            raise StoreError(f"SpiderEndpoint {namespace}/{name}: {outcome}")


def endpoint(
    name: str, pod: Pod, owner: TopOwner, node: str, ips: tuple[IPAllocation, ...], *, outlives_pod: bool
) -> SpiderEndpoint:
    """The object that describes a pod's addresses, as Spiderpool documents it; one that outlives its pod is not owned by it. `name`: the pod's, or
    that of the machine that it runs."""
    by_pod = OwnerReference(api_version="v1", kind="Pod", name=pod.name, uid=pod.uid, block_owner_deletion=True)
    return SpiderEndpoint(
        metadata=ObjectMeta(name=name, namespace=pod.namespace, owner_references=None if outlives_pod else (by_pod,)),
        status=EndpointStatus(
            current=PodIPAllocation(uid=pod.uid, node=node, ips=ips),
            owner_controller_type=owner.kind,
            owner_controller_name=owner.name,
        ),
    )


def _is_about_another(present: SpiderEndpoint | None, pod_uid: str) -> bool:
    return present is not None and present.status is not UNSET and present.status.current.uid != pod_uid


def _with_other_interfaces(wanted: SpiderEndpoint, stored: SpiderEndpoint | None) -> SpiderEndpoint:
    """Interfaces that are not set up yet keep their recorded addresses: their own ADD looks for its pin there."""
    if stored is None or stored.status is UNSET or wanted.status is UNSET:
        return wanted
    present = wanted.status.current
    names = {ip.interface for ip in present.ips}
    others = tuple(ip for ip in stored.status.current.ips if ip.interface not in names)
    current = msgspec.structs.replace(present, ips=present.ips + others)
    return msgspec.structs.replace(wanted, status=msgspec.structs.replace(wanted.status, current=current))


def _allocation(attachment: Attachment, pod: Pod, catalog: Catalog, mac: str, *, clean: bool) -> IPAllocation:
    """One interface. The default route is told by the gateway and `cleanGateway`, so `routes` leaves it out."""
    fields: dict[str, Any] = {"interface": attachment.key.ifname}
    asked = pod_routes(pod)
    routes: list[WireRoute] = []
    for grant in attachment.grants:
        pool = catalog.get(grant.pool)
        family = "ipv4" if grant.slot.family is Family.V4 else "ipv6"
        fields[family] = with_prefix(grant, pool)
        fields[f"{family}_pool"] = grant.pool
        if pool is None:
            continue
        if pool.gateway is not None:
            fields[f"{family}_gateway"] = str(pool.gateway)
        routes += [
            WireRoute(dst=str(route.dst), gw=str(route.gw))
            for route in interface_routes(pool, asked, clean=clean)
            if not (route.dst.is_default and route.gw == pool.gateway)
        ]
    if clean:
        fields["clean_gateway"] = True
    if mac:
        fields["mac"] = mac
    return IPAllocation(**fields, routes=tuple(routes))
