"""CNI ADD, from a validated request to the addresses of one interface.

The decisions are one function, `_step`, which never waits: it ends with what the interface got, or says what must be waited for before it can be
asked again. A node that has a free address of the pod's pools ends at the first step, in one turn of the event loop and without a task; the others
go on in `_patiently`. ADD makes no API call and waits for no probe there; else it stands in line, bounded, holding nothing.

Requests for one interface of one pod are served one after the other, so that concurrent duplicates get one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeAlias, TypeVar

import msgspec

from adapters.clock import Clock
from adapters.kube.store import Store, StoreError
from crds.core import POD, Pod
from ipam.addresses import Family
from ipam.errors import ApiUnreachable, Fenced, PodGone, Tombstoned
from ipam.owners import TopOwner
from ipam.selection import Selection
from ipam.stock import Held, Stock
from nodeagent import shortage
from nodeagent.afterwards import Afterwards
from nodeagent.allocator import Allocator, Attachment, Key
from nodeagent.answers import Answers
from nodeagent.gateways import Gateways
from nodeagent.identities import Identities
from nodeagent.needs import Needs
from nodeagent.outbox import Outbox
from nodeagent.ownership import Ownership
from nodeagent.pins import Pins
from nodeagent.refill import Refill
from nodeagent.request import CniRequest
from nodeagent.waiting import Ticket, WaitingLine
from nodeagent.world import World

Taken = TypeVar("Taken")

MAX_UNSEEN = 256  # pods that were served before the watch had shown them


class AddOutcome(msgspec.Struct, frozen=True):
    """For metrics and logs: how an ADD was served."""

    attachment: Attachment
    how: str  # repeat, adopted, warm, waited, moved
    seconds: float


class Granted(msgspec.Struct, frozen=True):
    """`pod` None: it is not known here any more."""

    attachment: Attachment
    how: str
    pod: Pod | None


class Attempt(msgspec.Struct):
    """One ADD, and what was found out by waiting for it so far."""

    request: CniRequest
    key: Key
    began: float
    deadline: float
    pod: Pod | None = None  # read from the API, because the watch had not shown it
    owner: TopOwner | None = None
    ticket: Ticket | None = None
    nobodys: bool = False  # the address will be the pod's alone: no identity that outlives it
    adopted: bool = False
    told: bool = False


Wait: TypeAlias = Callable[[Attempt], Awaitable[Granted | None]]
"""What a step needs before it can be taken again; some waits end with the grant themselves."""


class Adding:
    """`on_change`: attachments changed; it is called once the reply has left, or at once if something that is still to be done depends on it."""

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
        afterwards: Afterwards,
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
        self._afterwards = afterwards
        self._answers = Answers()
        self._in_flight: dict[tuple[str, str, str], asyncio.Event] = {}
        self._unseen: dict[str, Pod] = {}  # by UID: served before the watch had shown them
        self.observers: list[Callable[[AddOutcome], None]] = []
        self.started = asyncio.Event()
        """Set once the agent has joined: an ADD that comes earlier waits for that, as for an address."""
        self.gateways: Gateways | None = None  # those of which an answer is required

    def add(self, request: CniRequest) -> bytes | Awaitable[bytes]:
        """The answer, or what must be awaited for it. Raises NephilaError, as does what is awaited; then nothing is held for this request."""
        began = self._clock.now()
        key = Key(request.conf.name, request.container_id, request.ifname)
        attempt = Attempt(request, key, began, began + self._wait_s)
        if self._turn(request) not in self._in_flight:
            found = self._step(attempt)
            if isinstance(found, Granted):
                return self._answer(attempt, found)
        return self._patiently(attempt)

    async def _patiently(self, attempt: Attempt) -> bytes:
        turn = self._turn(attempt.request)
        while (other := self._in_flight.get(turn)) is not None:
            await other.wait()
        done = self._in_flight[turn] = asyncio.Event()
        try:
            while True:
                found = self._step(attempt)
                granted = found if isinstance(found, Granted) else await found(attempt)
                if granted is not None:
                    return self._answer(attempt, granted)
        finally:
            del self._in_flight[turn]
            done.set()

    def _turn(self, request: CniRequest) -> tuple[str, str, str]:
        return (request.pod_uid or f"{request.namespace}/{request.pod}", request.conf.name, request.ifname)

    def _answer(self, attempt: Attempt, granted: Granted) -> bytes:
        request, pod = attempt.request, granted.pod
        if attempt.pod is not None:
            self._unseen[attempt.pod.uid] = attempt.pod
            while len(self._unseen) > MAX_UNSEEN:
                del self._unseen[next(iter(self._unseen))]
        clean = self._needs.clean_gateway(pod, request.ifname, request.conf.ipam)
        answer = self._answers.add_result(request, granted.attachment, pod, self._world.pools.catalog, clean=clean)
        outcome = AddOutcome(granted.attachment, granted.how, self._clock.now() - attempt.began)
        self._afterwards(partial(self._observe, outcome))
        return answer

    def _observe(self, outcome: AddOutcome) -> None:
        for observe in self.observers:
            observe(outcome)

    # One step ------------------------------------------------------------------------------------------------------------------------

    def _step(self, attempt: Attempt) -> Granted | Wait:
        """Grant, or say what is missing. Raises NephilaError."""
        request, key = attempt.request, attempt.key
        if self._allocator.is_buried(key):
            raise Tombstoned(
                f"container {request.container_id} was deleted already", hint="the runtime starts a new one"
            )
        self._needs.learn(request.ifname, request.conf.ipam)
        present = self._allocator.get(key)
        if present is not None and present.pod_uid == (request.pod_uid or present.pod_uid):
            return self._present(attempt, present)
        if not self.started.is_set() and self._clock.now() < attempt.deadline:
            return self._until_started
        pod = self._world.pods.get(request.pod, request.namespace)
        if pod is None or (request.pod_uid and pod.uid != request.pod_uid):
            # The API server may be ahead of our watch.
            pod = attempt.pod or (self._served_unseen(request) if pod is None else None)
        if pod is None:
            return self._fetch_pod
        former = self._allocator.adoptable(request.conf.name, request.ifname, pod.uid)
        if former is not None and self._is_lost(former):
            self._allocator.release(former.key)
            self._on_change()
        elif former is not None:
            adopted = self._allocator.adopt(former, request.container_id, request.netns)
            self._on_change()
            attempt.adopted = True
            return self._present(attempt, adopted)
        needs_owner = self._needs.admit(pod, request.ifname, request.conf.ipam)
        self._refuse_if_over(
            key
        )  # before anything is judged by pools, which an agent that is starting may not have read
        if needs_owner and attempt.owner is None:
            return partial(self._find_owner, pod)
        if not attempt.nobodys and not self._identities.is_nobodys(pod, request.ifname):
            return partial(self._identified, pod)
        selection = self._needs.selection(pod, request.ifname, request.conf.ipam, attempt.owner)
        picks, short = self._pick(selection, attempt.ticket, ())
        if short:
            return partial(self._stand_in_line, selection, picks, short)
        if self.gateways is not None and (asked := self._unknown_gateways(picks)):
            return partial(self._ask_gateways, asked)
        granted = self._allocator.grant(self._wanted(attempt, pod), picks)
        self._afterwards(self._on_change)
        return Granted(granted, "waited" if attempt.ticket else "warm", pod)

    def _is_lost(self, former: Attachment) -> bool:
        """A leader took its addresses by force. Between two sandboxes nobody answers for them, so others may have found them silent."""
        return any(grant.slot in self._pins.keeper.lost for grant in former.grants)

    def forget_lost(self) -> None:
        """After a reboot, which took every sandbox: nothing of ours answers for what a leader took meanwhile, so none of it is wanted back."""
        for former in filter(self._is_lost, self._allocator.all()):
            self._allocator.release(former.key)
        self._on_change()

    def _served_unseen(self, request: CniRequest) -> Pod | None:
        """The pod as it was read when it got its addresses, which it still has: its next sandbox must not need an API server that is away."""
        pod = self._unseen.get(request.pod_uid)
        served = pod is not None and self._allocator.adoptable(request.conf.name, request.ifname, pod.uid) is not None
        return pod if served else None

    def _present(self, attempt: Attempt, present: Attachment) -> Granted | Wait:
        """The pod's interface has its addresses already."""
        if not attempt.told and self._must_tell(present):
            return self._tell
        seen = self._world.pods.get(present.pod, present.namespace) or attempt.pod or self._unseen.get(present.pod_uid)
        how = "adopted" if attempt.adopted else "repeat"
        return Granted(present, how, seen if seen is not None and seen.uid == present.pod_uid else None)

    def _wanted(self, attempt: Attempt, pod: Pod) -> Attachment:
        return Attachment(attempt.key, pod.namespace, pod.name, pod.uid, attempt.request.netns, (), 0.0)

    def _refuse_if_over(self, key: Key) -> None:
        """What must hold at the moment of the grant. Raises Fenced, Tombstoned."""
        if closed := self._why_closed():
            raise Fenced(
                f"this node may not hand out new addresses: {closed}",
                hint="see `nephila nodes`; the kubelet tries again",
            )
        if self._allocator.is_buried(key):
            raise Tombstoned(f"container {key.container_id} was deleted while it waited")

    def _pick(
        self, selection: Selection, ticket: Ticket | None, have: Collection[Family]
    ) -> tuple[list[Held], list[tuple[str, ...]]]:
        """One slot per family, in the order of the candidates, and the candidates of the families that have none."""
        picks: list[Held] = []
        short: list[tuple[str, ...]] = []
        for family, names in selection.candidates.items():
            if family in have:
                continue
            held = self._pick_from(names, ticket)
            if held is None:
                short.append(names)
            else:
                picks.append(held)
        if selection.wanted:
            short.extend((pool.name,) for pool in selection.missing if pool.family not in have)
        return picks, short

    def _pick_from(self, pools: tuple[str, ...], ticket: Ticket | None) -> Held | None:
        """From the first pool that has one. Nobody overtakes those who wait for a pool."""
        now = self._clock.now()
        for pool in pools:
            if not self._line.is_behind(ticket, pool) and (held := self._stock.pick(pool, now)) is not None:
                return held
        return None

    # Waits ---------------------------------------------------------------------------------------------------------------------------

    async def _until_started(self, attempt: Attempt) -> None:
        """The runtime's retry would cost more than the rest of a start; where that takes longer, `_refuse_if_over` says so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(attempt.deadline - self._clock.now(), 0.0)):
                await self.started.wait()

    async def _fetch_pod(self, attempt: Attempt) -> None:
        """One GET, because the kubelet may be faster than our watch. Raises PodGone, ApiUnreachable."""
        request = attempt.request
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
        attempt.pod = pod

    async def _find_owner(self, pod: Pod, attempt: Attempt) -> None:
        attempt.owner = await self._ownership.of(pod)

    async def _stand_in_line(
        self, selection: Selection, picks: list[Held], short: list[tuple[str, ...]], attempt: Attempt
    ) -> None:
        """Wait until one of the pools that matter has something to look at. Raises when the time is over."""
        remaining = attempt.deadline - self._clock.now()
        if remaining <= 0:
            effective, refill = self._world.pools.effective, self._refill
            raise shortage.refusal(selection, short, refill.is_exhausted, effective, self._wait_s, refill.passed_over)
        attempt.ticket = attempt.ticket or self._line.take()
        self._refill.kick()
        found = tuple(held.pool for held in picks)
        awaited = shortage.pools_to_await(short, self._refill.is_exhausted)
        await self._line.wait(attempt.ticket, awaited, remaining, found=found)

    async def _identified(self, pod: Pod, attempt: Attempt) -> Granted | None:
        """An address that belongs to an identity: its pin, and what tells where it is, are written before the reply."""
        request = attempt.request
        identity = await self._identities.of(pod, request.ifname, request.conf.name)
        if identity is None:
            attempt.nobodys = True
            return None
        select = partial(self._needs.selection, pod, request.ifname, request.conf.ipam, attempt.owner)
        async with self._pins.turn(identity, pod) as work:
            selection = select()
            awaited = (pool.family for pool in selection.missing)
            brought = await work.bring(selection.candidates, awaited, attempt.deadline)
            while asked := self._unknown_gateways(brought.values()):
                await self._ask_gateways(asked, attempt)
            fresh, how = await self._in_line(attempt, select, brought, work.set_aside)
            await work.fasten(fresh)
            self._refuse_if_over(attempt.key)
            picks = sorted([*brought.values(), *fresh], key=lambda held: held.slot.family)
            work.still_ours(picks)
            granted = self._allocator.grant(self._wanted(attempt, pod), picks)
            await self._sync()
        self._on_change()
        if self._must_tell(granted):
            await self._outbox.deliver(f"{pod.namespace}/{pod.name}", pod.uid)
        return Granted(granted, "moved" if brought else how, pod)

    async def _in_line(
        self,
        attempt: Attempt,
        select: Callable[[], Selection],
        have: Collection[Family],
        take: Callable[[list[Held]], Taken],
    ) -> tuple[Taken, str]:
        """A slot of every family but those in `have`. `take` gets all picks at once, in the same step of the event loop."""
        while True:
            self._refuse_if_over(attempt.key)
            selection = select()
            picks, short = self._pick(selection, attempt.ticket, have)
            if short:
                await self._stand_in_line(selection, picks, short, attempt)
            elif asked := self._unknown_gateways(picks):
                await self._ask_gateways(asked, attempt)
            else:
                return take(picks), "waited" if attempt.ticket else "warm"

    def _unknown_gateways(self, picks: Iterable[Held]) -> frozenset[str]:
        """The pools whose gateways must be asked first; of the others they answer. Raises GatewayUnreachable.

        The addresses themselves are proven by now: a conflict is the more important news, and has led to another address already.
        """
        pools = frozenset(held.pool for held in picks) if self.gateways is not None else frozenset()
        if self.gateways is None or not self.gateways.knows(pools):
            return pools
        self.gateways.require(pools)
        return frozenset()

    async def _ask_gateways(self, pools: Collection[str], _attempt: Attempt) -> None:
        if self.gateways is not None:
            await self.gateways.learn(pools)

    def _must_tell(self, attachment: Attachment) -> bool:
        """What tells where a pinned address is, is written before the reply: the identity's next node looks for the pin there."""
        pinned = any(self._pins.keeper.is_pinned(grant.slot) for grant in attachment.grants)
        return pinned and self._outbox.is_due(f"{attachment.namespace}/{attachment.pod}")

    async def _tell(self, attempt: Attempt) -> None:
        present = self._allocator.get(attempt.key)
        if present is not None:
            await self._outbox.deliver(f"{present.namespace}/{present.pod}", present.pod_uid)
        attempt.told = True
