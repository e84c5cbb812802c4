"""Forced reclaim (design.md section 4, point 6): `ipam.reclaim` decides, this reads and writes what it asks for, one node after the other.

A node whose silence calls for requests gets its turn by the allowance that all sweeps share. Who got none in one pass is the first of the next;
late is always safe here, since every waiting time is a least one.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.store import Outcome, Stored, StoreError, Unknown
from crds.core import NODE, Node
from crds.meta import UNSET, ObjectMeta
from crds.nephila import IP_NODE, FenceMark, IPNode, IPNodeSpec
from ipam import reclaim
from ipam.addresses import Address
from ipam.blocks import Block, Lease
from ipam.errors import BadValue
from ipam.lease import LeaseRefused
from ipam.reclaim import Beat, Mailbox, Marked, Policy, Remembered, Rules, Standing, State, Uses
from ipam.slots import Page, SlotId
from leader.announce import Announcer
from leader.loop import Allowance
from leader.sight import Sight, addresses_of, heartbeat_of, slot_of
from leader.views import POD_INTERFACES
from leader.writing import Writer

log = structlog.get_logger(__name__)

CONFIRMED = (
    "nephila.io/reclaim-confirmed"  # annotation of the IPNode: the id of the fence mark that an operator has confirmed
)
YIELD_EVERY = 100

Leases = list[tuple[Page, Lease]]


class Reclaim:
    def __init__(
        self,
        sight: Sight,
        writer: Writer,
        clock: Clock,
        entropy: Entropy,
        rules: Rules,
        announcer: Announcer,
        allowance: Allowance,
    ) -> None:
        self._sight = sight
        self._writer = writer
        self._clock = clock
        self._entropy = entropy
        self._rules = rules
        self._announcer = announcer
        self._allowance = allowance
        self._late = ""  # the first node that got no turn in the last pass
        self.states: dict[str, State] = {}
        self.successions: dict[str, State] = {}
        self.taken = 0

    async def work(self) -> None:
        """One pass over all nodes. Raises Deposed, and at the end the first StoreError: what one node meets keeps no other waiting."""
        leases = self._sight.leases_by_node()
        names = {*leases, *(mailbox.name for mailbox in self._sight.mailboxes)}
        for gone in set(self.states) - names:
            self.states.pop(gone)
            self.successions.pop(gone, None)
        first, self._late = self._late, ""
        failures: list[StoreError] = []
        for number, name in enumerate(sorted(names, key=lambda name: (name < first, name))):
            if number % YIELD_EVERY == 0:
                await self._clock.sleep(0)  # 5,000 nodes must not hold up a recall
            try:
                await self._node(name, leases.get(name, []))
            except StoreError as error:
                failures.append(error)
                log.warning("reclaim_failed", node=name, error=str(error))
        if failures:
            raise failures[0]

    def _may_ask(self, name: str) -> bool:
        """Whether requests may be spent on this node in this pass."""
        if self._allowance.take():
            return True
        self._late = self._late or name
        return False

    async def _node(self, name: str, leases: Leases) -> None:
        state = self.states.get(name)
        stored = self._sight.mailboxes.get(name)
        asking = isinstance(state, Remembered | Marked)
        if asking:
            if not self._may_ask(name):
                return
            stored = await self._writer.store.get(IP_NODE, name)  # our own write may not have reached the copy yet
        mailbox = _view(stored)
        now = self._clock.now()
        state = reclaim.observe(state, mailbox, leases, self._rules, now) if state else reclaim.watch(mailbox, now)
        standing = self._standing(name, mailbox)
        if isinstance(state, Remembered) and standing is Standing.PRESENT and self._rules.policy is Policy.NEVER:
            state = reclaim.watch(mailbox, now)
        if isinstance(state, Remembered) and not asking and not self._may_ask(name):
            return
        self.states[name] = state
        if isinstance(state, Remembered):
            self.states[name] = await self._mark(name, state)
        elif isinstance(state, Marked) and reclaim.is_ripe(state, self._rules, now):
            node = await self._writer.store.get(NODE, name)  # a live look at what decides how much may be taken
            if _standing_of(node, state.beat) is standing:
                self.states[name] = await self._take_and_go_on(name, state, standing, mailbox, leases)
        elif stored is not None:
            await self._succession(name, stored, leases)
        if stored is not None and not leases and standing is Standing.GONE:
            await self._bury(stored)

    # The mark --------------------------------------------------------------------------------------------------------------------------

    async def _mark(self, name: str, state: Remembered) -> State:
        """The epochs are remembered; now the mark, on a fresh read that still shows the silence."""
        stored = await self._writer.store.get(IP_NODE, name)
        mailbox = _view(stored)
        if reclaim.moved(state, mailbox):
            return reclaim.watch(mailbox, self._clock.now())
        mark = FenceMark(
            id=f"{self._writer.term}-{self._entropy.bits(64):016x}",
            term=self._writer.term,
            reason=f"no heartbeat for {self._rules.wait_s:.0f} s",
            since=datetime.fromtimestamp(self._clock.wall(), UTC),
        )
        outcome: Outcome[IPNode]
        if stored is None:
            outcome = await self._writer.create(
                IP_NODE, IPNode(metadata=ObjectMeta(name=name), spec=IPNodeSpec(fence=mark))
            )
        else:
            outcome = await self._writer.patch(IP_NODE, stored, {"spec": {"fence": msgspec.to_builtins(mark)}})
        written = outcome.object if isinstance(outcome, Stored) else None
        if isinstance(outcome, Unknown):
            written = await self._writer.store.get(IP_NODE, name)
        found = _view(written)
        if found is None or found.mark != mark.id or (stored is not None and reclaim.moved(state, found)):
            return reclaim.watch(found, self._clock.now()) if written is not None else state
        log.warning("node_marked", node=name, mark=mark.id, leases=len(state.leases), wait_s=self._rules.wait_s)
        if written is not None:
            self._announcer.announce(written, "NodeFenced", mark.reason)
        return reclaim.marked(state, found, self._clock.now())

    async def unmark(self) -> None:
        """Remove marks that were answered, some at each call. Lazy: an answered mark fences nobody. Raises StoreError, Deposed."""
        for stored in self._sight.mailboxes:
            mailbox = _view(stored)
            if mailbox is not None and mailbox.mark and not mailbox.standing_mark:
                if not self._allowance.take():
                    return
                await self._writer.patch(IP_NODE, stored, {"spec": {"fence": None}})

    # Taking ----------------------------------------------------------------------------------------------------------------------------

    async def _take(self, name: str, state: Marked, standing: Standing) -> State:
        """The wait is over. Every block is read again, and before it the mailbox."""
        uses = await self._uses(name, standing)
        for page in sorted({page for page, _uid in state.leases}):
            stored = await self._writer.store.get(IP_NODE, name)
            mailbox = _view(stored)
            if not reclaim.holds(state, mailbox):
                log.info("reclaim_called_off", node=name)
                return reclaim.watch(mailbox, self._clock.now())
            confirmed = bool(stored and mailbox and mailbox.mark and stored.annotations.get(CONFIRMED) == mailbox.mark)
            state = await self._take_from(name, page, state, standing, uses, confirmed=confirmed)
        return state

    async def _take_and_go_on(
        self, name: str, state: Marked, standing: Standing, mailbox: Mailbox | None, leases: Leases
    ) -> State:
        """`mailbox`, `leases`: as seen before anything was taken."""
        after = await self._take(name, state, standing)
        if isinstance(after, Marked) and mailbox is not None:
            after = reclaim.begun_anew(state, after, mailbox, leases)
        return await self._mark(name, after) if isinstance(after, Remembered) else after

    async def _take_from(
        self, name: str, page: Page, state: Marked, standing: Standing, uses: Uses, *, confirmed: bool
    ) -> Marked:
        def decide(block: Block) -> Block:
            mask = reclaim.takeable(block, standing, self._rules.policy, uses, confirmed=confirmed)
            return reclaim.take(state, block, mask, self._writer.term)

        try:
            changed = await self._writer.change_block(page, decide)
        except (BadValue, LeaseRefused) as error:
            log.error("block_unreadable", block=page.name, error=str(error))
            return state
        if changed is None or changed[0] is changed[1]:
            return state
        before, after = changed
        slots = (before.leased & ~after.leased).bit_count()
        self.taken += slots
        log.warning("slots_reclaimed", node=name, block=page.name, slots=slots, standing=standing.value)
        return reclaim.taken(state, before, after)

    async def _uses(self, name: str, standing: Standing) -> Uses:
        """What is known of the pods of that node: their list is read now, their addresses come from podIPs and SpiderEndpoints.

        podIPs tell of `eth0` alone, which another CNI may serve: they account for a pod only if it has no other interface.
        """
        if standing in (Standing.GONE, Standing.OUT_OF_SERVICE):
            return Uses({}, frozenset())
        pods = (await self._writer.store.list(POD_INTERFACES, fields=f"spec.nodeName={name}")).items
        holders: dict[SlotId, frozenset[str]] = {}
        placed: set[str] = set()
        domains = {pool.domain for pool in self._sight.book.catalog} | {""}
        catalog = self._sight.book.catalog

        def record(slot: SlotId, uid: str) -> None:
            holders[slot] = holders.get(slot, frozenset()) | {uid}

        for endpoint in self._sight.endpoints_on(name):
            if endpoint.status is not UNSET:
                for item in endpoint.status.current.ips:
                    for pool, address in addresses_of(item):
                        known = catalog.get(pool)
                        for domain in [known.domain] if known else domains:
                            record(slot_of(address, domain), endpoint.status.current.uid)
                            placed.add(endpoint.status.current.uid)
        for pod in pods:
            if pod.tells_all:
                placed.add(pod.uid)
            for ip in pod.status.pod_ips or ():
                address = Address.parse(ip.ip)
                for domain in domains:  # podIPs do not say which L2 domain: protect the address in all
                    record(slot_of(address, domain), pod.uid)
        living = frozenset(pod.uid for pod in pods)
        unplaced = frozenset(pod.uid for pod in pods if pod.uid not in placed and not pod.spec.host_network)
        return Uses(holders, living, unplaced)

    # Replaced and gone nodes -----------------------------------------------------------------------------------------------------------

    async def _succession(self, name: str, stored: IPNode, leases: Leases) -> None:
        """Leases of a former Node object of this name, while an agent lives under the present one."""
        mailbox, now = _view(stored), self._clock.now()
        beat = mailbox.beat if mailbox else None
        if beat is None or all(lease.node.uid == beat.node_uid for _, lease in leases):
            self.successions.pop(name, None)
            return
        state = reclaim.succeeded(self.successions.get(name) or reclaim.watch(mailbox, now), mailbox, leases, now)
        self.successions[name] = state
        if isinstance(state, Marked) and reclaim.is_ripe(state, self._rules, now) and self._may_ask(name):
            after = await self._take(name, state, Standing.REPLACED)
            self.successions[name] = after
            foreign = [(page, lease) for page, lease in leases if lease.node.uid != beat.node_uid]
            if isinstance(after, Marked) and reclaim.written_since(state, foreign):
                del self.successions[name]  # remembered anew at the next look

    async def _bury(self, stored: IPNode) -> None:
        """The mailbox of a node that is gone, after its last lease: never earlier, because a missing mailbox must mean "fenced"."""
        state, since = self.states.get(stored.name), self._sight.beaten_at.get(stored.name)
        now = self._clock.now()
        if state is None or since is None or now - since < self._rules.wait_s:
            return
        started = state.since if not isinstance(state, Remembered) else now
        if now - started < self._rules.wait_s or not self._may_ask(stored.name):
            return
        if await self._writer.store.get(NODE, stored.name) is not None:
            return
        if await self._writer.delete(IP_NODE, stored):
            log.info("mailbox_removed", node=stored.name)

    def _standing(self, name: str, mailbox: Mailbox | None) -> Standing:
        return _standing_of(self._sight.nodes.get(name), mailbox.beat if mailbox else None)


def _standing_of(node: Node | None, beat: Beat | None) -> Standing:
    if node is None:
        return Standing.GONE
    if node.is_out_of_service:
        return Standing.OUT_OF_SERVICE
    return Standing.REPLACED if beat is not None and beat.node_uid != node.uid else Standing.PRESENT


def _view(stored: IPNode | None) -> Mailbox | None:
    if stored is None:
        return None
    beat = heartbeat_of(stored)
    return Mailbox(
        uid=stored.uid,
        resource_version=stored.resource_version,
        beat=Beat(*beat) if beat else None,
        mark=stored.spec.fence.id if stored.spec.fence is not UNSET else "",
        answered=stored.status.cleared_fence if stored.status is not UNSET else "",
    )
