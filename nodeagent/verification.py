"""Joins probes and stock: free slots are proven ahead of demand, accused ones quarantined with a re-test and an end, live ones defended.

One of these per parent interface; nothing of it is in the ADD path. What the segment says arrives here as verdicts (active) and intrusions
(passive), and leaves as a change of a slot's state, a journal entry, an Event, and a line in `IPNode.status.conflicts`.

- A free slot that somebody uses is quarantined; `probes.quarantine` says when it is tested again and when it is free again.
- An allocated slot that somebody else claims is defended by announcement (RFC 5227 section 2.4: at most one in DEFEND_INTERVAL), reported, and
  never taken from its pod.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from adapters.clock import Clock
from adapters.journal import DropSlot, Journal, PutSlot, SlotRecord
from adapters.waking import Kick
from crds.nephila import ConflictSeen
from ipam.addresses import Family
from ipam.blocks import Block
from ipam.errors import ApiUnreachable, JournalFailed
from ipam.slots import Page, SlotId
from ipam.stock import FREE_STATES, Held, State, Stock
from nodeagent.allocator import Allocator, Attachment, Key
from nodeagent.podmacs import PodMacs
from nodeagent.waiting import WaitingLine
from probes.macs import Party
from probes.messages import How
from probes.prober import Prober
from probes.profiles import FAST
from probes.verdicts import Evidence, Verdict
from probes.verdicts import State as Seen
from probes.verifier import Verifier
from probes.watcher import Intrusion, Watcher

log = structlog.get_logger(__name__)

SYNC_S = 0.25  # how often the tracked set is compared with the stock when nothing kicks
GAP_S = 0.05  # and how often at most, whoever kicks: a burst of ADDs is looked at once
DEFEND_INTERVAL_S = 10.0  # RFC 5227 section 1.1
JUDGE_INTERVAL_S = 1.0  # between two looks at the pin of an address that its machine's other sandbox seems to claim
MAX_CONFLICTS = 64
CONFLICT_S = 600.0  # a conflict about an address that is not in quarantine is told for so long after it was last seen


class Sharing(Protocol):
    """What tells a stranger from the other end of a live migration."""

    def must_leave(self, slot: SlotId) -> bool:
        """Whether the slot is pinned, or not in our lease any more, as last seen."""

    def is_shared(self, slot: SlotId) -> bool:
        """Whether a live migration to this node is under way, as last seen."""

    async def look(self, page: Page) -> Block:
        """The block as it stands in the API now. Raises ApiUnreachable."""


def _how(seen: Intrusion) -> How:
    if seen.address.family is Family.V4:
        claim = How.ARP_REPLY if seen.answer else How.ARP_CLAIM
        return How.ARP_PROBE if seen.probing else claim
    claim = How.ND_ADVERTISEMENT if seen.answer else How.ND_CLAIM
    return How.ND_PROBE if seen.probing else claim


Tell = Callable[[str, SlotId, str, str], None]  # reason, slot, pool, note


@dataclass(slots=True)
class _Live:
    """A pod's address on this node, as held by one attachment."""

    key: Key
    mac: str = ""
    defended_at: float = float("-inf")


class Verification:
    """Of one segment. Built inside a running event loop. `domain`: the L2 domain behind the parent interface; `sees`: whether a slot is on this very
    segment; `may_test`: whether its tests can be judged already.
    """

    def __init__(
        self,
        prober: Prober,
        stock: Stock,
        allocator: Allocator,
        line: WaitingLine,
        journal: Journal,
        clock: Clock,
        macs: PodMacs,
        tell: Tell,
        sharing: Sharing,
        *,
        domain: str,
        sees: Callable[[SlotId], bool],
        may_test: Callable[[Held], bool],
        interval_s: float,
        retest_s: float,
    ) -> None:
        self._prober = prober
        self._stock = stock
        self._allocator = allocator
        self._line = line
        self._journal = journal
        self._clock = clock
        self._macs = macs
        self._tell = tell
        self._sharing = sharing
        self._tasks: asyncio.TaskGroup | None = None
        self._failure: JournalFailed | None = None
        self._domain = domain
        self._sees = sees
        self._may_test = may_test
        self._verifier = Verifier(
            prober, clock, self._on_verdict, interval_s=interval_s, profile=FAST, retest_s=retest_s
        )
        self._watcher: Watcher | None = None
        self._tracked: set[SlotId] = set()
        self._live: dict[SlotId, _Live] = {}
        self._kicked = Kick()
        self.conflicts: OrderedDict[SlotId, ConflictSeen] = OrderedDict()

    def attend(self, watcher: Watcher) -> None:
        """From now on the watcher is told which addresses matter; its intrusions come to `on_intrusion`."""
        self._watcher = watcher

    def kick(self) -> None:
        """The stock changed: compare soon."""
        self._kicked()

    def hurry(self, pool: str) -> None:
        """An ADD waits for an address of the pool: those that want a proof are tested now, not at the next comparison, nor after another test."""
        for held in self._stock.of_pool(pool, State.UNPROVEN):
            if self._sees(held.slot) and self._may_test(held):
                if self._is_news(held):
                    self._free(held.slot)
                self._verifier.hurry(held.slot.address)

    def is_testing(self, slot: SlotId) -> bool:
        """Whether probes for the address are on the wire."""
        return self._sees(slot) and self._verifier.is_testing(slot.address)

    async def why_not_silent(self, slot: SlotId, pool: str) -> str:
        """A full probe, right now, of an address that belongs to an identity: it stays the identity's, whoever uses it, and that one is reported."""
        verdict = (await self._prober.verify([slot.address], FAST))[slot.address]
        if verdict.state is Seen.CLEAR:
            self.conflicts.pop(slot, None)
            return ""
        if verdict.evidence is None:
            return f"whether it is silent could not be tested: {verdict.reason}"
        mac = verdict.evidence.mac
        if slot not in self.conflicts and verdict.evidence.party is not Party.SELF:
            log.warning("pinned_address_in_use", address=str(slot), mac=mac, pool=pool)
            self._tell(
                "PinnedAddressInUse", slot, pool, f"{slot} belongs to a pod that waits to start, but {mac} uses it"
            )
        self._report(slot, pool, verdict.evidence)
        return f"{mac} on the wire answers for it"

    def pardon(self, macs: Collection[str]) -> None:
        """These MACs were found to answer for everything: what is held back for their answers alone is tested anew."""
        for address in self._verifier.pardon(macs):
            log.info("quarantine_doubted", address=str(address), why="its user answers for every address")

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._verifier.run(), name="verifier")
            while True:
                self._kicked.clear()
                if self._failure is not None:
                    raise self._failure
                self._sync()
                await self._rest()

    # The tracked set follows the stock -----------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        now = self._clock.now()
        for pool in self._stock.pools():
            self._stock.mature(pool, now)
        wanted = {
            held.slot: held
            for held in self._stock
            if held.state not in (State.LEAVING, State.COOLING) and self._sees(held.slot)
        }
        for slot in self._tracked - wanted.keys():
            self._forget(slot)
        self._forget_old_conflicts()
        for slot, held in wanted.items():
            if held.state is State.ALLOCATED:
                self._follow(slot)
            elif self._is_news(held) and self._may_test(held):
                self._free(slot)

    def _is_news(self, held: Held) -> bool:
        """True if the free slot must be tested from the start: it is new here, a pod had it, or a pod had it and let it go between two looks, so that
        the stock wants a proof while the verifier still believes in the one from before.
        """
        slot = held.slot
        unseen = held.state is State.UNPROVEN and self._verifier.fresh(slot.address)
        return slot not in self._tracked or slot in self._live or unseen

    def _free(self, slot: SlotId) -> None:
        self._live.pop(slot, None)
        self._verifier.forget(
            slot.address
        )  # what was known of it as a pod's address says nothing about it as a free one
        self._verifier.track(slot.address)
        self._tracked.add(slot)
        if self._watcher is not None:
            self._watcher.watch(slot.address)

    def _follow(self, slot: SlotId) -> None:
        """A pod uses it, or another sandbox of the pod does: announce its MAC once that is known, and from then on expect that one."""
        attachment, live = self._allocator.holder_of(slot), self._live.get(slot)
        if attachment is None or (live is not None and live.key == attachment.key):
            return
        self._live[slot] = _Live(attachment.key)
        self._verifier.forget(slot.address)
        self._prober.stop_announcing(slot.address)
        self._tracked.add(slot)
        if self._watcher is not None:
            self._watcher.watch(slot.address, settling=True)
        if mac := self._macs.of(attachment.key):
            self.on_mac(attachment, mac)

    def _forget(self, slot: SlotId) -> None:
        self._tracked.discard(slot)
        self._verifier.forget(slot.address)
        if self._live.pop(slot, None) is not None:
            self._prober.stop_announcing(slot.address)
        if self._watcher is not None:
            self._watcher.unwatch(slot.address)

    def on_mac(self, attachment: Attachment, mac: str) -> None:
        """A pod's MAC was learnt: tell the segment, and expect nobody else."""
        for slot in (grant.slot for grant in attachment.grants):
            live = self._live.get(slot)
            if live is None or live.key != attachment.key:
                continue
            live.mac = mac
            self.announce(slot)
            if self._watcher is not None:
                self._watcher.watch(slot.address, mac)

    def announce(self, slot: SlotId) -> None:
        """Tell the segment where a pod's address is. Not while its machine still runs elsewhere: that would take its traffic away."""
        live = self._live.get(slot)
        if live is not None and live.mac and not self._sharing.is_shared(slot):
            self._prober.announce(slot.address, live.mac)

    # What the segment says -----------------------------------------------------------------------------------------------------------

    def _on_verdict(self, verdict: Verdict) -> None:
        slot = SlotId(self._domain, verdict.address.family, verdict.address.value)
        held = self._stock.get(slot)
        if held is None or slot in self._live:
            return
        if verdict.state is Seen.TAKEN and verdict.evidence is not None:
            self._quarantine(held, verdict.evidence)
        elif verdict.state is Seen.CLEAR:
            if held.state is State.QUARANTINED:
                if self._verifier.quarantine(verdict.address) is not None:
                    return  # silent once; it takes another
                self._lift(held)
            self._stock.prove(slot, verdict.at)
            self._line.wake(held.pool, 1)

    def on_intrusion(self, seen: Intrusion) -> None:
        """The watcher saw somebody use (or probe for) one of our addresses."""
        slot = SlotId(self._domain, seen.address.family, seen.address.value)
        held = self._stock.get(slot)
        if held is None:
            return
        if seen.answer and seen.mac in self._prober.proxies:
            self._verifier.recheck(seen.address)  # it may have spoken for nobody: a test weighs that
            return
        evidence = Evidence(seen.mac, _how(seen), seen.party, seen.at)
        if held.state is State.ALLOCATED:
            self._defend(slot, held, evidence)
        elif held.state in FREE_STATES or held.state is State.QUARANTINED:
            try:
                self._verifier.suspect(seen.address, evidence)
            except JournalFailed as error:
                self._failure = error  # the event loop calls us, and would only log it: `run` ends the agent
                self._kicked()
        elif held.state is State.PINNED and not evidence.how.is_probe:  # who probes asks, as we do
            self._stock.accuse(slot)

    def _quarantine(self, held: Held, evidence: Evidence) -> None:
        if not self._stock.accuse(held.slot):
            return
        slot = held.slot
        record = SlotRecord(slot.domain, slot.family, slot.value, "quarantined", evidence=evidence.mac)
        self._journal.commit([PutSlot(record)])
        self._report(slot, held.pool, evidence)
        log.warning("address_quarantined", address=str(slot), mac=evidence.mac, how=evidence.how.value, pool=held.pool)
        self._tell(
            "AddressInUse",
            slot,
            held.pool,
            f"{slot} is free but used by {evidence.mac}; it is held back and tested again",
        )

    def _lift(self, held: Held) -> None:
        slot = held.slot
        self._stock.lift(slot, self._clock.now())
        self._journal.commit([DropSlot(slot.domain, slot.family, slot.value)])
        self.conflicts.pop(slot, None)
        log.info("quarantine_ended", address=str(slot), pool=held.pool)
        self._tell("AddressFreeAgain", slot, held.pool, f"{slot} has fallen silent and is usable again")

    def _defend(self, slot: SlotId, held: Held, evidence: Evidence) -> None:
        live, now = self._live.get(slot), self._clock.now()
        if live is None or not live.mac or evidence.party is Party.SELF or now - live.defended_at < DEFEND_INTERVAL_S:
            return
        live.defended_at = now
        if self._sharing.must_leave(slot) and self._tasks is not None:
            self._tasks.create_task(self._defend_unless_shared(slot, held, evidence), name="defend")
        else:
            self._defend_now(slot, held, evidence)

    async def _defend_unless_shared(self, slot: SlotId, held: Held, evidence: Evidence) -> None:
        """A pinned address may be claimed by the very machine that has it, from its other sandbox: the pin says so."""
        try:
            if (await self._sharing.look(slot.page)).is_shared(slot.value - slot.page.base):
                log.info("address_shared", address=str(slot), mac=evidence.mac)
                self._look_again_soon(slot)
                return
        except ApiUnreachable as error:
            log.warning("claim_not_judged", address=str(slot), mac=evidence.mac, error=str(error))
            self._look_again_soon(slot)
            return  # to fight the machine's other half would cut it off
        if self._stock.get(slot) is held and held.state is State.ALLOCATED:
            self._defend_now(slot, held, evidence)

    def _look_again_soon(self, slot: SlotId) -> None:
        if (live := self._live.get(slot)) is not None:
            live.defended_at = self._clock.now() - DEFEND_INTERVAL_S + JUDGE_INTERVAL_S

    def _defend_now(self, slot: SlotId, held: Held, evidence: Evidence) -> None:
        live = self._live.get(slot)
        if live is None:
            return
        self._prober.announce(slot.address, live.mac)
        if evidence.how.is_probe:
            return  # no conflict (RFC 5227 section 2.4): he asks, is answered, and goes elsewhere; also another node that moves a pin
        self._report(slot, held.pool, evidence)
        log.warning("address_defended", address=str(slot), mac=evidence.mac, pod_mac=live.mac)
        self._tell(
            "AddressConflict", slot, held.pool, f"{slot} belongs to a pod of this node, but {evidence.mac} claims it"
        )

    def _report(self, slot: SlotId, pool: str, evidence: Evidence) -> None:
        seen = datetime.fromtimestamp(self._clock.wall(), UTC)
        self.conflicts[slot] = ConflictSeen(
            ip=str(slot.address), mac=evidence.mac, pool=pool, seen=seen, how=evidence.how.value
        )
        while len(self.conflicts) > MAX_CONFLICTS:
            self.conflicts.popitem(last=False)

    def _forget_old_conflicts(self) -> None:
        """A quarantine ends its own; of others nobody says that they are over."""
        oldest = datetime.fromtimestamp(self._clock.wall() - CONFLICT_S, UTC)
        for slot in [slot for slot, conflict in self.conflicts.items() if conflict.seen < oldest]:
            held = self._stock.get(slot)
            if held is None or held.state is not State.QUARANTINED:
                del self.conflicts[slot]

    async def _rest(self) -> None:
        began = self._clock.now()
        await self._kicked.within(self._clock, SYNC_S)
        early = began + GAP_S - self._clock.now()
        if early > 0:
            await self._clock.sleep(early)
