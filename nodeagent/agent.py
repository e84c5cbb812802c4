"""The agent as one object: builds its parts over given adapters, starts in a safe order, runs until cancelled.

`service.py` gives it the real adapters, the simulation its own; nothing in here knows which.

Start: journal → memory → socket (DEL works from here on) → pools and pods listed → blocks read → heartbeat (a mark is answered) → ADD.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.journal import Journal, JournalState, PutMeta
from adapters.kube.events import EventRecorder
from adapters.kube.store import Store, StoreError
from adapters.sandboxes import Sandboxes
from crds.core import NODE
from crds.nephila import AUDIT_MAX, CONFLICTS_MAX, IP_NODE, PoolStock
from ipam.blocks import NodeRef
from ipam.errors import ApiUnreachable
from ipam.fence import Fence
from ipam.parents import Parents
from ipam.slots import SlotId
from ipam.stock import FREE_STATES, State, Stock, Trust
from nodeagent import lostjournal
from nodeagent.adding import Adding
from nodeagent.afterwards import Afterwards
from nodeagent.allocator import Allocator
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.claims import Claims
from nodeagent.config import AgentConfig
from nodeagent.evidence import Evidence
from nodeagent.front import Front
from nodeagent.gateways import Gateways
from nodeagent.heartbeats import RETRY_S, Heartbeats
from nodeagent.identities import Identities, record_of
from nodeagent.mailbox import ACKNOWLEDGED, MAILBOX_UID, Identity, Mailbox, NodeReport
from nodeagent.needs import Needs, learnt_from, remembered
from nodeagent.outbox import Outbox
from nodeagent.ownership import Ownership
from nodeagent.pins import Pins
from nodeagent.podmacs import MacOf, PodMacs, no_mac
from nodeagent.recall import RecallDesk
from nodeagent.reconcile import Reconciler
from nodeagent.refill import Refill
from nodeagent.request import IpamConf
from nodeagent.segment import SegmentPort
from nodeagent.segments import Segments, Surrounding
from nodeagent.telling import Teller
from nodeagent.verbs import Verbs
from nodeagent.waiting import WaitingLine
from nodeagent.wire import HttpReply, HttpRequest
from nodeagent.world import World

log = structlog.get_logger(__name__)

BOOT_ID, NODE_UID = "bootID", "nodeUID"
RESTARTED_ELSEWHERE = "boot-or-node-changed"  # stands in for a mark: every lease is re-taken before use
STARTING = "the agent is starting"
REPORTER = "nephila.io/agent"


@dataclass(frozen=True, slots=True)
class Ports:
    """The impure edges."""

    store: Store
    journal: Journal
    clock: Clock
    entropy: Entropy
    sandboxes: Sandboxes
    boot_id: str
    version: str
    segments: tuple[SegmentPort, ...] = ()  # none: addresses are not verified, and IPNode says so
    mac_of: MacOf | None = None  # None: pods' MACs stay unknown, and nothing is announced


class Agent:
    def __init__(self, config: AgentConfig, ports: Ports) -> None:
        self.config = config
        self._ports = ports
        self._starting = STARTING
        clock = ports.clock
        self.stock = Stock(Trust(config.probe.verify_interval_s) if ports.segments else Trust.unlimited())
        self.line = WaitingLine()
        self.world = World(ports.store, clock, ports.entropy, config.node, self._changed)
        self.ownership = Ownership(ports.store)
        self.allocator = Allocator(
            ports.journal, clock, self.stock, config.lease.cooldown_s, lambda slot: self.keeper.must_leave(slot)
        )
        self._state = ports.journal.load()
        self.needs = Needs(self.world, config.features, learnt_from(self._state.meta), self._remember_conf)
        self.keeper = BlockKeeper(
            ports.store,
            ports.journal,
            clock,
            ports.entropy,
            self.stock,
            NodeRef(config.node, self._state.meta.get(NODE_UID, "")),
            lambda slot: self.world.pools.pool_of(slot),
            config.lease.cooldown_s,
        )
        self.refill = Refill(
            self.world,
            self.needs,
            self.allocator,
            self.stock,
            self.keeper,
            self.line,
            clock,
            lambda: not self.why_closed(),
            config.lease.cooldown_s - config.lease.cooldown_floor_s,
        )
        self.heartbeats = Heartbeats(
            self.world, self.refill, clock, ports.entropy, config.node, config.lease.heartbeat_s
        )
        self.refill.on_lack = self.heartbeats.hurry
        self.recalls = RecallDesk(
            self.refill, self.stock, self.keeper, clock, lambda: not self.why_closed(), self.heartbeats.hurry
        )
        self.macs = PodMacs(self.allocator, clock, ports.mac_of or no_mac)
        self.outbox = Outbox(
            ports.store,
            ports.journal,
            clock,
            ports.entropy,
            self.allocator,
            self.world,
            self.ownership,
            config.node,
            partial(record_of, features=config.features),
            self.needs.clean_gateway,
            self.keeper.is_shared,
            Claims(ports.store, self.world),
            self.macs,
        )
        self.macs.listeners.append(self.outbox.on_mac)
        identities = Identities(ports.store, config.features)
        self.evidence = Evidence(ports.store, self.keeper, self.allocator, self.stock, identities, clock)
        self.pins = Pins(ports.store, self.keeper, self.stock, self.world, clock, self.evidence)
        self.pins.settled.append(self._settled)
        self.afterwards = Afterwards()
        self.adding = Adding(
            self.world,
            self.needs,
            self.ownership,
            self.allocator,
            self.stock,
            self.refill,
            self.line,
            ports.store,
            clock,
            config.lease.wait_s,
            self.why_closed,
            self._allocated,
            self.pins,
            identities,
            self.outbox,
            ports.journal.sync,
            self.afterwards,
        )
        self.verbs = Verbs(
            self.world,
            self.allocator,
            self.stock,
            ports.sandboxes,
            self.why_not_ready,
            self._allocated,
            self.afterwards,
        )
        self.reconciler = Reconciler(
            self.allocator,
            self.world,
            ports.store,
            ports.sandboxes,
            clock,
            config.lease.leak_confirm_s,
            self._allocated,
        )
        self.events = EventRecorder(ports.store, clock, ports.entropy, controller=REPORTER, instance=config.node)
        self.mailbox: Mailbox | None = None
        self.front = Front(
            {
                "ADD": self.adding.add,
                "DEL": self.verbs.delete,
                "CHECK": self.verbs.check,
                "GC": self.verbs.collect,
                "STATUS": self.verbs.status,
            },
            clock,
            self.afterwards,
        )
        self.teller = Teller(self.events, clock, config.node, self.allocator.holder_of)
        self.front.observers.append(self.teller.on_request)
        self.adding.observers.append(self.teller.on_add)
        if ports.mac_of is not None:
            self.adding.observers.append(lambda outcome: self.macs.follow(outcome.attachment))
        self.reconciler.observers.append(self.teller.on_leak)
        self.segments = self._segments()
        self.gateways = self._gateways() if ports.segments and config.probe.gateway != "off" else None
        if config.probe.gateway == "require":
            self.adding.gateways = self.gateways
        if ports.segments:
            self.evidence.why_not_silent = self.segments.why_not_silent
            self.evidence.sees = lambda slot: self.segments.of(slot) is not None
        self._restore(self._state)

    # Readiness -----------------------------------------------------------------------------------------------------------------------

    def why_closed(self) -> str:
        """Why no new address may be handed out now; "" if it may."""
        if self._starting or self.mailbox is None:
            return self._starting or STARTING
        return self.mailbox.fence.why_closed(self._ports.clock.now())

    def why_not_ready(self) -> str:
        """Why an ADD could not be served now; "" if it could. What readiness and CNI STATUS say."""
        if closed := self.why_closed():
            return closed
        unusable = self.segments.why_unusable()
        return f"the parent interface is not usable: {unusable}" if unusable else ""

    # CNI -----------------------------------------------------------------------------------------------------------------------------

    async def serve(self, http: HttpRequest) -> HttpReply:
        """One request of the shim, with all that it leaves to be done. Never raises: every failure is a CNI error object."""
        answer = self.front.answer(http)
        reply = answer if isinstance(answer, HttpReply) else await answer
        self.afterwards.run()
        return reply

    # Life ----------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. The socket may be opened before: DEL is served from the journal at once."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.world.run(), name="world")
            await self.world.synced()
            mailbox = await self._join()
            self._starting = ""
            self.adding.started.set()
            log.info("agent_ready", node=self.config.node, attachments=len(self.allocator.all()), slots=len(self.stock))
            tasks.create_task(self.events.run(), name="events")
            tasks.create_task(self.segments.run(), name="segments")
            if self.gateways is not None:
                tasks.create_task(self.gateways.run(), name="gateways")
            if self._ports.mac_of is not None:
                tasks.create_task(self.macs.run(), name="macs")
            tasks.create_task(self.refill.run(), name="refill")
            tasks.create_task(self.outbox.run(), name="outbox")
            tasks.create_task(self.heartbeats.run(mailbox, self.recalls), name="heartbeats")
            tasks.create_task(self.recalls.run(), name="recalls")
            tasks.create_task(self.reconciler.run(), name="reconciler")
            tasks.create_task(self.pins.run(), name="pins")

    async def _join(self) -> Mailbox:
        """Bring memory in step with the API, and be acknowledged once. Tried until it works."""
        while True:
            try:
                identity = await self._identify()
                # By the journal, not by what an earlier try has left in memory: leases of a former Node UID must not be forgotten.
                former = NodeRef(self.config.node, self._state.meta.get(NODE_UID, ""))
                changed = self._state.meta.get(BOOT_ID, identity.boot_id) != identity.boot_id or former.uid not in (
                    "",
                    identity.node_uid,
                )
                self.keeper.me = NodeRef(self.config.node, identity.node_uid)
                self.mailbox = self._mailbox(identity, former, RESTARTED_ELSEWHERE if changed else "")
                if (
                    BOOT_ID not in self._state.meta
                    and await self._ports.store.get(IP_NODE, self.config.node) is not None
                ):
                    self.keeper.shunned |= await lostjournal.shun(
                        self._ports.store, self._ports.journal, self.keeper.me, identity.boot_id
                    )
                if not changed:
                    await self.keeper.reload()
                await self.mailbox.beat()
                self._ports.journal.commit([PutMeta(BOOT_ID, identity.boot_id), PutMeta(NODE_UID, identity.node_uid)])
                return self.mailbox
            except (ApiUnreachable, StoreError) as error:
                log.warning("agent_join_failed", error=str(error))
                await self._ports.clock.sleep(RETRY_S)

    async def _identify(self) -> Identity:
        node = await self._ports.store.get(NODE, self.config.node)
        if node is None:
            raise ApiUnreachable(
                f"Node {self.config.node} does not exist yet", hint="is `node` in the agent's configuration right?"
            )
        return Identity(self.config.node, node.uid, self._ports.boot_id)

    def _mailbox(self, identity: Identity, former: NodeRef, mark: str) -> Mailbox:
        meta = self._state.meta
        same_boot = meta.get(BOOT_ID) == identity.boot_id
        fence = Fence(
            lease_s=self.config.lease.lease_s,
            acknowledged_at=float(meta.get(ACKNOWLEDGED, "-inf")) if same_boot else float("-inf"),
            mailbox_uid=meta.get(MAILBOX_UID, ""),
            mark=mark,
        )
        mailbox = Mailbox(
            self._ports.store,
            self._ports.journal,
            self._ports.clock,
            identity,
            fence,
            self._report,
            lambda: self.keeper.retake_all(former),
        )
        mailbox.observers.append(self.teller.on_fence)
        return mailbox

    # Segments ------------------------------------------------------------------------------------------------------------------------

    def _segments(self) -> Segments:
        around = Surrounding(
            self.stock,
            self.allocator,
            self.line,
            self._ports.journal,
            self._ports.clock,
            self.world,
            self.macs,
            self.keeper,
            self._on_address,
            self.teller.on_segment,
            self.heartbeats.hurry,
        )
        parents = Parents(tuple(port.parent for port in self._ports.segments))
        return Segments(self._ports.segments, around, self.config.probe, parents)

    def _gateways(self) -> Gateways:
        return Gateways(
            self._ports.clock,
            self.world,
            self.stock,
            self.segments,
            self._on_gateway,
            interval_s=self.config.probe.gateway_interval_s,
        )

    def _on_gateway(self, reason: str, pools: Collection[str], note: str) -> None:
        self.teller.on_gateway(reason, pools, note)
        self.heartbeats.hurry()

    def _on_address(self, reason: str, slot: SlotId, pool: str, note: str) -> None:
        self.teller.on_address(reason, slot, pool, note)
        self.heartbeats.hurry()  # what is quarantined, and by whom, is part of the heartbeat

    # Memory --------------------------------------------------------------------------------------------------------------------------

    def _restore(self, state: JournalState) -> None:
        """What the journal knows, before anything is read: enough to serve DEL and to recognise every address in use."""
        self.keeper.shunned = lostjournal.still_shunned(state.slots, self._ports.boot_id)
        lostjournal.forget(self._ports.journal, state.slots, self._ports.boot_id)
        self.keeper.restore(state.leases, (r for r in state.slots if not lostjournal.is_about_lost_journal(r)))
        now = self._ports.clock.now()
        for attachment in self.allocator.restore(state):
            for grant in attachment.grants:
                if grant.slot not in self.stock:
                    self.keeper.lost.add(grant.slot)  # the journal knows no lease of it
                held = self.stock.hold(grant.slot, grant.pool, now)
                if held.state in FREE_STATES:
                    self.stock.allocate(grant.slot)
        self.outbox.restore(state.outbox)

    def _remember_conf(self, interface: str, conf: IpamConf) -> None:
        self._ports.journal.commit([remembered(interface, conf)])

    def _changed(self) -> None:
        """Pools, namespaces or pods changed."""
        self.refill.kick()

    def _settled(self, slot: SlotId) -> None:
        """A machine's live migration to this node is over: now it is told and announced that it is here."""
        if (attachment := self.allocator.holder_of(slot)) is not None:
            self.outbox.mark(f"{attachment.namespace}/{attachment.pod}", attachment.pod_uid)
        self.segments.announce(slot)

    def _allocated(self) -> None:
        """An ADD, DEL or GC changed something: tell the API afterwards, and look at the stock."""
        for record in self.allocator.take_dirty():
            self.outbox.mark(*record)
        self.segments.kick()
        self.refill.kick()

    def _report(self) -> NodeReport:
        unverified = self.segments.unverified()
        return NodeReport(
            pools=tuple(
                PoolStock(
                    name=pool,
                    used=self.stock.count(pool, State.ALLOCATED),
                    free=self.stock.count(pool, State.READY, State.UNPROVEN),
                    cooling=self.stock.count(pool, State.COOLING),
                    quarantined=self.stock.count(pool, State.QUARANTINED),
                    wanted=self.refill.wanted(pool),
                    unverified=pool in unverified,
                )
                for pool in sorted({*self.stock.pools(), *self.line.pools(), *self.refill.wanting()} - {""})
            ),
            recalls=self.recalls.answers(),
            conflicts=self.segments.conflicts()[:CONFLICTS_MAX],
            audit=self.segments.audited()[:AUDIT_MAX],
            probe=self.segments.probe_state(),
            segments=self.segments.states(),
            gateways=self.gateways.states() if self.gateways is not None else (),
            version=self._ports.version,
            parent=",".join(port.parent.interface for port in self._ports.segments),
        )
