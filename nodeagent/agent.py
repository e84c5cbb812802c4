"""The agent as one object: builds its parts (`parts.py`) over given adapters, starts in a safe order, runs until cancelled.

Start: journal → memory → socket (DEL works from here on) → pools and pods listed → blocks read → heartbeat (a mark is answered) → ADD.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from adapters.kube.events import EventRecorder
from crds.nephila import AUDIT_MAX, CONFLICTS_MAX, PoolStock
from ipam.parents import Parents
from ipam.slots import SlotId
from ipam.stock import State
from nodeagent.config import AgentConfig
from nodeagent.gateways import Gateways
from nodeagent.joining import Joining
from nodeagent.mailbox import Mailbox, NodeReport
from nodeagent.parts import CniService, Holdings, PodRecords
from nodeagent.ports import Ports
from nodeagent.reconcile import Reconciler
from nodeagent.segments import Segments, Surrounding
from nodeagent.telling import Teller
from nodeagent.wire import HttpReply, HttpRequest

log = structlog.get_logger(__name__)

STARTING = "the agent is starting"
REPORTER = "nephila.io/agent"


class Agent:
    def __init__(self, config: AgentConfig, ports: Ports) -> None:
        self.config = config
        self._ports = ports
        self._starting = STARTING
        state = ports.journal.load()
        holdings = Holdings(config, ports, state, lambda: not self.why_closed())
        records = PodRecords(config, ports, holdings)
        cni = CniService(config, ports, holdings, records, self.why_closed, self.why_not_ready, self._allocated)
        self.stock, self.line, self.world = holdings.stock, holdings.line, holdings.world
        self.allocator, self.needs, self.keeper = holdings.allocator, holdings.needs, holdings.keeper
        self.refill, self.heartbeats, self.recalls = holdings.refill, holdings.heartbeats, holdings.recalls
        self.ownership, self.macs, self.outbox = records.ownership, records.macs, records.outbox
        self.evidence, self.pins = records.evidence, records.pins
        self.afterwards, self.adding, self.verbs, self.front = cni.afterwards, cni.adding, cni.verbs, cni.front
        self.reconciler = Reconciler(
            self.allocator,
            self.world,
            ports.store,
            ports.sandboxes,
            ports.clock,
            config.lease.leak_confirm_s,
            self._allocated,
        )
        self.events = EventRecorder(ports.store, ports.clock, ports.entropy, controller=REPORTER, instance=config.node)
        self.teller = Teller(self.events, ports.clock, config.node, self.allocator.holder_of)
        self._joining = Joining(config, ports, state.meta, self.keeper, self._report, self.teller.on_fence)
        self.segments = self._segments()
        self.refill.on_unproven = self.segments.hurry
        self.keeper.at_rest = self.segments.at_rest
        self.gateways = self._gateways() if ports.segments and config.probe.gateway != "off" else None
        self._connect()
        holdings.restore(state)
        self.outbox.restore(state.outbox)

    def _connect(self) -> None:
        """Who is told of what, beyond what a part is built with."""
        self._joining.on_reboot = self.adding.forget_lost
        self.pins.settled.append(self._settled)
        self.front.observers.append(self.teller.on_request)
        self.adding.observers.append(self.teller.on_add)
        if self._ports.mac_of is not None:
            self.adding.observers.append(lambda outcome: self.macs.follow(outcome.attachment))
        self.reconciler.observers.append(self.teller.on_leak)
        if self.config.probe.gateway == "require":
            self.adding.gateways = self.gateways
        if self._ports.segments:
            self.evidence.why_not_silent = self.segments.why_not_silent
            self.evidence.sees = lambda slot: self.segments.of(slot) is not None

    @property
    def mailbox(self) -> Mailbox | None:
        """None until the Node was found."""
        return self._joining.mailbox

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
            mailbox = await self._joining.join()
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

    # What follows from what -----------------------------------------------------------------------------------------------------------

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
