"""The CNI verbs: ADD, DEL, CHECK, GC, STATUS (specification 1.1.0), from a validated request to the answer.

ADD makes no API call and waits for no probe when the node has an address of the pod's pools; otherwise it stands in line, bounded, holding nothing.
Requests for one interface of one pod are served one after the other, so that concurrent duplicates get one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from adapters.clock import Clock
from adapters.kube.store import Store, StoreError
from crds.core import POD, Pod
from ipam import annotations as notes
from ipam.addresses import Family
from ipam.errors import (
    ApiUnreachable,
    CheckFailed,
    DeadlineExceeded,
    Fenced,
    NephilaError,
    NotReady,
    PodGone,
    PoolExhausted,
    Tombstoned,
)
from ipam.facts import pod_refusal
from ipam.owners import TopOwner
from ipam.selection import Selection
from ipam.stock import Held, Stock
from nodeagent.allocator import Allocator, Attachment, Key
from nodeagent.answers import add_result
from nodeagent.identities import Identities
from nodeagent.needs import Needs
from nodeagent.outbox import Outbox
from nodeagent.ownership import Ownership
from nodeagent.pins import Pins
from nodeagent.refill import Refill
from nodeagent.request import CniRequest
from nodeagent.waiting import Ticket, WaitingLine
from nodeagent.world import World

log = structlog.get_logger(__name__)

Taken = TypeVar("Taken")


@dataclass(frozen=True, slots=True)
class AddOutcome:
    """For metrics and logs: how an ADD was served."""

    attachment: Attachment
    how: str  # repeat, adopted, warm, waited
    seconds: float


class Verbs:
    def __init__(
        self,
        world: World,
        needs: Needs,
        ownership: Ownership,
        allocator: Allocator,
        stock: Stock,
        refill: Refill,
        line: WaitingLine,
        store: Store,
        clock: Clock,
        wait_s: float,
        why_closed: Callable[[], str],
        on_change: Callable[[], None],
        pins: Pins,
        identities: Identities,
        outbox: Outbox,
        sync: Callable[[], Awaitable[None]],
    ) -> None:
        self._pins = pins
        self._identities = identities
        self._outbox = outbox
        self._sync = sync
        self._world = world
        self._needs = needs
        self._ownership = ownership
        self._allocator = allocator
        self._stock = stock
        self._refill = refill
        self._line = line
        self._store = store
        self._clock = clock
        self._wait_s = wait_s
        self._why_closed = why_closed
        self._on_change = on_change
        self._in_flight: dict[tuple[str, str, str], asyncio.Event] = {}
        self.started = asyncio.Event()
        """Set once the agent has joined: an ADD that comes earlier waits for that, as for an address."""
        self.observers: list[Callable[[AddOutcome], None]] = []
        self.why_not_ready = why_closed  # what STATUS asks; whoever knows more may say more

    # ADD -----------------------------------------------------------------------------------------------------------------------------

    async def add(self, request: CniRequest) -> bytes:
        """The address of one interface. Raises NephilaError; then nothing is held for this request."""
        began = self._clock.now()
        deadline = began + self._wait_s
        turn = (request.pod_uid or f"{request.namespace}/{request.pod}", request.conf.name, request.ifname)
        while (other := self._in_flight.get(turn)) is not None:
            await other.wait()
        done = self._in_flight[turn] = asyncio.Event()
        try:
            attachment, how, pod = await self._add(request, deadline)
        finally:
            del self._in_flight[turn]
            done.set()
        outcome = AddOutcome(attachment, how, self._clock.now() - began)
        for observe in self.observers:
            observe(outcome)
        return add_result(
            request,
            attachment,
            pod,
            self._world.pools.catalog,
            clean=self._needs.clean_gateway(pod, request.ifname, request.conf.ipam),
        )

    async def _add(self, request: CniRequest, deadline: float) -> tuple[Attachment, str, Pod | None]:
        key = Key(request.conf.name, request.container_id, request.ifname)
        if self._allocator.is_buried(key):
            raise Tombstoned(
                f"container {request.container_id} was deleted already", hint="the runtime starts a new one"
            )
        self._needs.learn(request.ifname, request.conf.ipam)
        present = self._allocator.get(key)
        if present is not None and present.pod_uid == (request.pod_uid or present.pod_uid):
            await self._tell_first(present)
            seen = self._world.pods.get(present.pod, present.namespace)
            return present, "repeat", seen if seen is not None and seen.uid == present.pod_uid else None
        await self._until_started(deadline)
        pod = await self._pod(request)
        former = self._allocator.adoptable(request.conf.name, request.ifname, pod.uid)
        if former is not None:
            adopted = self._allocator.adopt(former, request.container_id, request.netns)
            self._on_change()
            await self._tell_first(adopted)
            return adopted, "adopted", pod
        if refusal := pod_refusal(self._world.facts_of(pod)):
            raise refusal
        if text := pod.annotations.get(notes.ROUTES):
            notes.parse_routes(text)  # refused before anything is held
        owner = await self._ownership.of(pod) if self._needs.needs_owner(pod) else None
        wanted = Attachment(key, pod.namespace, pod.name, pod.uid, request.netns, (), 0.0)
        return *(await self._allocate(wanted, pod, request, owner, deadline)), pod

    async def _until_started(self, deadline: float) -> None:
        """The runtime's retry would cost more than the rest of a start; where that takes longer, `_refuse_if_over` says so."""
        if self.started.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(deadline - self._clock.now(), 0.0)):
                await self.started.wait()

    async def _allocate(
        self, wanted: Attachment, pod: Pod, request: CniRequest, owner: TopOwner | None, deadline: float
    ) -> tuple[Attachment, str]:
        """Pick and commit. All families together or none."""
        select = partial(self._needs.selection, pod, request.ifname, request.conf.ipam, owner)
        identity = await self._identities.of(pod, request.ifname, request.conf.name)
        if identity is None:
            granted, how = await self._in_line(
                wanted.key, select, deadline, (), lambda picks: self._allocator.grant(wanted, picks)
            )
            self._on_change()
            return granted, how
        async with self._pins.turn(identity, pod) as work:
            selection = select()
            brought = await work.bring(selection.candidates, (pool.family for pool in selection.missing), deadline)
            fresh, how = await self._in_line(wanted.key, select, deadline, brought, work.set_aside)
            await work.fasten(fresh)
            self._refuse_if_over(wanted.key)
            picks = sorted([*brought.values(), *fresh], key=lambda held: held.slot.family)
            work.still_ours(picks)
            granted = self._allocator.grant(wanted, picks)
            await self._sync()
        self._on_change()
        await self._tell_first(granted)
        return granted, "moved" if brought else how

    async def _tell_first(self, attachment: Attachment) -> None:
        """What tells where a pinned address is, is written before the reply: the identity's next node looks for the pin there."""
        pod = f"{attachment.namespace}/{attachment.pod}"
        pinned = any(self._pins.keeper.is_pinned(grant.slot) for grant in attachment.grants)
        if pinned and self._outbox.is_due(pod):
            await self._outbox.deliver(pod, attachment.pod_uid)

    def _refuse_if_over(self, key: Key) -> None:
        """What must hold at the moment of the grant. Raises Fenced, Tombstoned."""
        if closed := self._why_closed():
            raise Fenced(
                f"this node may not hand out new addresses: {closed}",
                hint="see `nephila nodes`; the kubelet tries again",
            )
        if self._allocator.is_buried(key):
            raise Tombstoned(f"container {key.container_id} was deleted while it waited")

    async def _in_line(
        self,
        key: Key,
        select: Callable[[], Selection],
        deadline: float,
        have: Collection[Family],
        take: Callable[[list[Held]], Taken],
    ) -> tuple[Taken, str]:
        """Pick a slot of every family but those in `have`; if one has nothing here, wait in line for its pools, holding nothing.

        `take` gets all picks at once, in the same step of the event loop.
        """
        ticket: Ticket | None = None
        while True:
            self._refuse_if_over(key)
            selection = select()
            picks, short = self._pick(selection, ticket, have)
            if not short:
                return take(picks), "waited" if ticket else "warm"
            remaining = deadline - self._clock.now()
            if remaining <= 0:
                raise self._exhausted(selection, short)
            ticket = ticket or self._line.take()
            self._refill.kick()
            await self._line.wait(ticket, self._hopeful(short), remaining, found=tuple(held.pool for held in picks))

    def _pick(
        self, selection: Selection, ticket: Ticket | None, have: Collection[Family]
    ) -> tuple[list[Held], list[tuple[str, ...]]]:
        """One slot per family, in the order of the candidates, and the candidates of the families that have none."""
        picks: list[Held] = []
        short: list[tuple[str, ...]] = []
        for family, names in selection.candidates.items():
            if family in have:
                continue
            held = next((found for name in names if (found := self._pick_from(name, ticket)) is not None), None)
            if held is None:
                short.append(names)
            else:
                picks.append(held)
        short.extend((pool.name,) for pool in selection.missing if pool.family not in have)
        return picks, short

    def _pick_from(self, pool: str, ticket: Ticket | None) -> Held | None:
        """Nobody overtakes those who wait for this pool."""
        if self._line.is_behind(ticket, pool):
            return None
        return self._stock.pick(pool, self._clock.now())

    def _hopeful(self, short: list[tuple[str, ...]]) -> set[str]:
        """The pools to wait for: of each list, those up to the first that may still have something anywhere."""
        pools: set[str] = set()
        for names in short:
            for name in names:
                pools.add(name)
                if not self._refill.is_exhausted(name):
                    break
        return pools

    def _exhausted(self, selection: Selection, short: list[tuple[str, ...]]) -> NephilaError:
        if selection.missing:
            listed = ", ".join(f"{pool.name} of SpiderSubnet {pool.subnet}" for pool in selection.missing)
            return DeadlineExceeded(
                f"application pool {listed} does not exist yet",
                hint="the leader makes it: see the Events of the SpiderSubnet and of the application; the kubelet tries again",
            )
        names = sorted({name for listed in short for name in listed})
        if any(not self._refill.is_exhausted(name) for name in names):
            return DeadlineExceeded(
                f"no address of {', '.join(names)} arrived within {self._wait_s:.0f} s",
                hint="the kubelet tries again; see `nephila pools`",
            )
        effective = self._world.pools.effective
        sizes = "; ".join(f"{name}: {effective[name].size} addresses" for name in names if name in effective)
        refused = "; ".join(str(refusal) for refusal in selection.refused)
        return PoolExhausted(
            f"all addresses of {', '.join(names)} are used or held",
            hint="enlarge a pool, or see who holds them with `nephila pools`",
            details="; ".join(part for part in (sizes, refused) if part),
        )

    async def _pod(self, request: CniRequest) -> Pod:
        """From the watch cache; one GET on a miss, because the kubelet may be faster than our watch. Raises PodGone, ApiUnreachable."""
        pod = self._world.pods.get(request.pod, request.namespace)
        if pod is None or (request.pod_uid and pod.uid != request.pod_uid):
            try:
                pod = await self._store.get(POD, request.pod, request.namespace)
            except StoreError as error:
                raise ApiUnreachable(
                    f"pod {request.namespace}/{request.pod} is not known here and the API server does not answer: {error}",
                    hint="the kubelet tries again",
                ) from error
        if pod is None:
            raise PodGone(
                f"pod {request.namespace}/{request.pod} does not exist",
                hint="nothing to do: it needs no address any more",
            )
        if request.pod_uid and pod.uid != request.pod_uid:
            raise PodGone(
                f"pod {request.namespace}/{request.pod} with UID {request.pod_uid} was replaced by {pod.uid}",
                hint="nothing to do: the new pod has a sandbox of its own",
            )
        return pod

    # DEL, CHECK, GC, STATUS ----------------------------------------------------------------------------------------------------------

    async def delete(self, request: CniRequest) -> bytes:
        """Free what this container's interface holds. Idempotent; needs neither the API server nor the pod."""
        released = self._allocator.release(Key(request.conf.name, request.container_id, request.ifname))
        if released is not None:
            self._on_change()
            self._refill.kick()
        return b""

    async def check(self, request: CniRequest) -> bytes:
        """The reservation is ours, complete, and what the previous result says. Raises CheckFailed."""
        key = Key(request.conf.name, request.container_id, request.ifname)
        attachment = self._allocator.get(key)
        if attachment is None:
            raise CheckFailed(
                f"container {key.container_id} has no address on {key.ifname} of network {key.network}",
                hint="delete the sandbox",
            )
        ours = {str(grant.slot.address) for grant in attachment.grants}
        previous = (request.conf.prev_result or {}).get("ips")
        shown = {str(ip.get("address", "")).split("/")[0] for ip in previous or [] if isinstance(ip, dict)}
        if previous is not None and not ours <= shown:
            raise CheckFailed(
                f"addresses {', '.join(sorted(ours - shown))} are reserved but not in prevResult",
                hint="delete the sandbox",
            )
        for grant in attachment.grants:
            if grant.slot not in self._stock:
                raise CheckFailed(
                    f"{grant.slot} left this node's leases", hint="see `nephila trace ip`; delete the pod"
                )
        return b""

    async def collect(self, request: CniRequest) -> bytes:
        """GC: free attachments of this very network that the runtime does not list, if their sandbox is really gone.

        No list at all is no information. A listed network name bounds what may be touched; a namespace that still exists protects its
        attachment, because two runtimes may share a network (containernetworking/cni#1086).
        """
        valid = request.conf.valid_attachments
        if valid is None:
            return b""
        listed = {(item.container_id, item.ifname) for item in valid}
        for attachment in self._allocator.all():
            key = attachment.key
            if key.network != request.conf.name or (key.container_id, key.ifname) in listed:
                continue
            if attachment.netns and Path(attachment.netns).exists():
                log.warning("gc_spared", container=key.container_id, why="its network namespace exists")
                continue
            self._allocator.release(key)
            log.info("gc_released", container=key.container_id, namespace=attachment.namespace, pod=attachment.pod)
        self._on_change()
        return b""

    async def status(self, request: CniRequest) -> bytes:
        """Can an ADD be served now? Raises NotReady (code 50)."""
        if not self._world.has_synced:
            raise NotReady(
                "the agent has not read the cluster's pools yet", hint="is the API server reachable from this node?"
            )
        if closed := self.why_not_ready():
            raise NotReady(f"this node cannot hand out new addresses: {closed}", hint="see `nephila nodes`")
        return b""
