"""All segments that this node has an interface on: each is opened, surveyed, probed, watched and, where asked for, audited on its own.

An interface that cannot be opened is tried again for ever, and nothing of its segment is handed out meanwhile. Addresses that are behind none of the
node's interfaces cannot be proven here: they are handed out without proof, and the heartbeat says of which pools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import structlog

from adapters.clock import Clock
from adapters.journal import Journal
from crds.nephila import MAX_PROXIES, AuditEntry, ConflictSeen, ProbeState, SegmentState
from ipam.addresses import Network
from ipam.parents import Parent, Parents
from ipam.slots import SlotId
from ipam.stock import Held, State, Stock
from nodeagent.allocator import Allocator, Attachment
from nodeagent.audit import Audit, withheld
from nodeagent.config import ProbeSettings
from nodeagent.podmacs import PodMacs
from nodeagent.segment import Segment, SegmentPort
from nodeagent.surveys import Surveys
from nodeagent.verification import Sharing, Tell, Verification
from nodeagent.waiting import WaitingLine
from nodeagent.world import World
from probes.prober import Prober
from probes.watcher import Mode

log = structlog.get_logger(__name__)

RETRY_S = 2.0
LOOK_S = 0.25  # how soon a slot that no interface is on is found usable
AT_REST_S = 0.5  # a test takes 0.2 s by profile `fast`; one of a whole batch may go on, and is then heard for a moment
AT_REST_LOOK_S = 0.01
KNOWN_SLOTS = 65_536
AHEAD = 4  # networks that are surveyed although nothing of them is held here: every node asks, and each question is a broadcast
NO_PARENT = "no parent interface is configured"
_WORST_FIRST = (Mode.OFF, Mode.PACKET, Mode.EBPF)


@dataclass(frozen=True, slots=True)
class Surrounding:
    """What every segment works on, and whom it tells."""

    stock: Stock
    allocator: Allocator
    line: WaitingLine
    journal: Journal
    clock: Clock
    world: World
    macs: PodMacs
    sharing: Sharing
    on_address: Tell
    on_segment: Callable[[str], None]
    tell_leader: Callable[[], None]


class SegmentWatch:
    """One of them."""

    def __init__(
        self,
        port: SegmentPort,
        parents: Parents,
        parent_of: Callable[[SlotId], Parent | None],
        around: Surrounding,
        settings: ProbeSettings,
    ) -> None:
        self._port = port
        self._parents = parents
        self._parent_of = parent_of
        self._around = around
        self._settings = settings
        self.mode, self.reason = Mode.OFF, "not opened yet"
        self.prober: Prober | None = None
        self.verification: Verification | None = None
        self.audit: Audit | None = None

    @property
    def interface(self) -> str:
        return self._port.parent.interface

    def sees(self, slot: SlotId) -> bool:
        """Whether the slot is on this segment."""
        return self._parent_of(slot) == self._port.parent

    def state(self) -> SegmentState:
        parent = self._port.parent
        proxies = sorted(self.prober.proxies)[:MAX_PROXIES] if self.prober is not None else ()
        return SegmentState(
            interface=parent.interface,
            domain=parent.domain,
            mode=self.mode.value,
            reason=self.reason,
            proxies=tuple(proxies),
        )

    async def run(self) -> None:
        """For ever."""
        around, segment = self._around, await self._open()
        self.mode, self.reason, self.prober = segment.watcher.mode, segment.watcher.reason, segment.prober
        surveys = Surveys(segment.prober, around.clock, self._networks, self._on_survey)
        self.verification = self._verification(segment, surveys)
        around.tell_leader()  # how this node watches is part of its heartbeat
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(surveys.run(), name="surveys")
                tasks.create_task(self.verification.run(), name="verification")
                if self._settings.audit:
                    self.audit = self._audit(segment.prober)
                    tasks.create_task(self.audit.run(), name="audit")
        finally:
            await segment.close()

    async def _open(self) -> Segment:
        interface = self._port.parent.interface
        while True:
            try:
                return await self._port.open(
                    lambda seen: self.verification.on_intrusion(seen) if self.verification else None
                )
            except OSError as error:
                self.reason = f"{interface}: {error}"
                self._around.on_segment(self.reason)
                log.error("segment_unusable", parent=interface, error=str(error))
                await self._around.clock.sleep(RETRY_S)

    def _verification(self, segment: Segment, surveys: Surveys) -> Verification:
        around = self._around
        verification = Verification(
            segment.prober,
            around.stock,
            around.allocator,
            around.line,
            around.journal,
            around.clock,
            around.macs,
            around.on_address,
            around.sharing,
            domain=self._port.parent.domain,
            sees=self.sees,
            may_test=lambda held: (network := self._network_of(held)) is None or surveys.covers(network),
            interval_s=self._settings.verify_interval_s,
            retest_s=self._settings.retest_s,
        )
        verification.attend(segment.watcher)
        return verification

    def _audit(self, prober: Prober) -> Audit:
        world = self._around.world
        return Audit(
            prober,
            self._around.clock,
            lambda: withheld(
                world.pools.catalog,
                world.reserved,
                lambda domain, address: self._parents.of(domain, address) == self._port.parent,
            ),
            self._around.tell_leader,
            interval_s=self._settings.audit_interval_s,
            per_s=self._settings.audit_per_s,
        )

    def _network_of(self, held: Held) -> Network | None:
        pool = self._around.world.pools.catalog.get(held.pool)
        return pool.subnet if pool is not None else None

    def _networks(self) -> Sequence[Network]:
        """Those whose addresses are held here first, then a few of others: the first pod of a network need not wait for its survey."""
        here, parent = frozenset(self._around.stock.pools()), self._port.parent
        pools = [pool for pool in self._around.world.pools.catalog if pool.domain == parent.domain]
        held = [pool.subnet for pool in pools if pool.name in here and parent.shares(pool.subnet)]
        others = dict.fromkeys(pool.subnet for pool in pools if pool.name not in here and parent.shares(pool.subnet))
        return [*held, *[network for network in others if network not in held][:AHEAD]]

    def _on_survey(self, found: Collection[str]) -> None:
        if self.verification is not None:
            self.verification.pardon(found)
            self.verification.kick()
        if found:
            self._around.tell_leader()


class Segments:
    """Run `run()` as a task. Without ports nothing is verified, and says so."""

    def __init__(
        self, ports: Sequence[SegmentPort], around: Surrounding, settings: ProbeSettings, parents: Parents
    ) -> None:
        self._stock = around.stock
        self._clock = around.clock
        self._line = around.line
        self._world = around.world
        # Asked for every slot at every comparison, and never another answer: interfaces are told once, at start.
        self._parent_of = lru_cache(maxsize=KNOWN_SLOTS)(parents.of_slot)
        self._watches = tuple(SegmentWatch(port, parents, self._parent_of, around, settings) for port in ports)
        around.macs.listeners.append(self._on_mac)

    def __iter__(self) -> Iterator[SegmentWatch]:
        return iter(self._watches)

    async def run(self) -> None:
        """For ever, if there is anything to watch."""
        if not self._watches:
            return
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches:
                tasks.create_task(watch.run(), name="segment")
            while True:
                self._unsee()
                await self._clock.sleep(LOOK_S)

    def announce(self, slot: SlotId) -> None:
        """Tell the slot's segment where a pod's address is."""
        for verification in self._verifications():
            verification.announce(slot)

    def kick(self) -> None:
        """The stock changed: compare soon."""
        for verification in self._verifications():
            verification.kick()

    def hurry(self, pool: str) -> None:
        """An ADD waits for an address of the pool: those that want a proof are tested now."""
        for verification in self._verifications():
            verification.hurry(pool)

    async def at_rest(self, slots: Collection[SlotId]) -> None:
        """Returns once none of these addresses is being tested from here, AT_REST_S later at most: whoever has one next would hear our probes for it,
        and take us for somebody who is about to use it (RFC 5227, section 2.1.1).
        """
        until = self._clock.now() + AT_REST_S
        while self._clock.now() < until:
            if not any(one.is_testing(slot) for one in self._verifications() for slot in slots):
                return
            await self._clock.sleep(AT_REST_LOOK_S)

    def of(self, slot: SlotId) -> SegmentWatch | None:
        """The segment that the slot is on."""
        return next((watch for watch in self._watches if watch.sees(slot)), None)

    async def why_not_silent(self, slot: SlotId) -> str:
        """A full probe, right now, for one who owns the address already: who answers for it, who is reported, or why that cannot be found out; "" if
        nobody does.
        """
        watch = self.of(slot)
        if watch is None or watch.verification is None:
            return "no interface of this node can ask the wire for it"
        return await watch.verification.why_not_silent(slot, self._world.pools.pool_of(slot))

    def why_unusable(self) -> str:
        """Why no address at all can be proven on a node that is to prove them; "" if some can, or none need be."""
        if not self._watches or any(self._verifications()):
            return ""
        return "; ".join(watch.reason for watch in self._watches)

    # What the heartbeat says ---------------------------------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """How the worst watched segment is watched."""
        return min((watch.mode for watch in self._watches), key=_WORST_FIRST.index, default=Mode.OFF)

    def probe_state(self) -> ProbeState:
        """All segments in a word."""
        if not self._watches:
            return ProbeState(mode=Mode.OFF.value, reason=NO_PARENT)
        named = len(self._watches) > 1
        reasons = [
            f"{state.interface}: {state.reason}"
            if named and not state.reason.startswith(state.interface)
            else state.reason
            for state in self.states()
            if state.reason
        ]
        return ProbeState(mode=self.mode.value, reason="; ".join(reasons)[:1024])

    def states(self) -> tuple[SegmentState, ...]:
        return tuple(watch.state() for watch in self._watches)

    def conflicts(self) -> tuple[ConflictSeen, ...]:
        return tuple(chain.from_iterable(verification.conflicts.values() for verification in self._verifications()))

    def audited(self) -> tuple[AuditEntry, ...]:
        return tuple(chain.from_iterable(watch.audit.entries() for watch in self._watches if watch.audit is not None))

    def unverified(self) -> frozenset[str]:
        """The pools of which this node holds slots that it cannot prove."""
        return self._stock.unseen_pools() if self._watches else frozenset(self._stock.pools())

    # Inside --------------------------------------------------------------------------------------------------------------------------

    def _verifications(self) -> Iterator[Verification]:
        return (watch.verification for watch in self._watches if watch.verification is not None)

    def _unsee(self) -> None:
        for held in tuple(self._stock) if self._watches else ():
            if not held.unseen and self._parent_of(held.slot) is None:
                self._stock.unsee(held.slot)
                if held.state is State.READY:
                    self._line.wake(held.pool, 1)

    def _on_mac(self, attachment: Attachment, mac: str) -> None:
        for verification in self._verifications():
            verification.on_mac(attachment, mac)
