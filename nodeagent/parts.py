"""The agent's parts, wired together in the three groups that the agent is made of. Nothing is started here, and nothing read but the journal's state.

A part that needs one that is built after it gets a function that looks it up when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from adapters.journal import JournalState
from ipam.blocks import NodeRef
from ipam.parents import Parents
from ipam.stock import FREE_STATES, Stock, Trust
from nodeagent import lostjournal
from nodeagent.adding import Adding
from nodeagent.afterwards import Afterwards
from nodeagent.allocator import Allocator
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.claims import Claims
from nodeagent.config import AgentConfig
from nodeagent.evidence import Evidence
from nodeagent.front import Front
from nodeagent.heartbeats import Heartbeats
from nodeagent.identities import Identities, record_of
from nodeagent.joining import NODE_UID
from nodeagent.lastresort import LastResort
from nodeagent.needs import Needs, learnt_from, remembered
from nodeagent.outbox import Outbox
from nodeagent.ownership import Ownership
from nodeagent.pins import Pins
from nodeagent.podmacs import PodMacs, no_mac
from nodeagent.ports import Ports
from nodeagent.recall import RecallDesk
from nodeagent.refill import Refill
from nodeagent.request import IpamConf
from nodeagent.verbs import Verbs
from nodeagent.waiting import WaitingLine
from nodeagent.world import World


class Holdings:
    """What the node has to hand out, and what keeps it stocked. `is_open`: whether new addresses may be handed out now."""

    def __init__(self, config: AgentConfig, ports: Ports, state: JournalState, is_open: Callable[[], bool]) -> None:
        self._ports = ports
        clock, lease = ports.clock, config.lease
        parents = Parents(tuple(port.parent for port in ports.segments))
        self.stock = Stock(Trust(config.probe.verify_interval_s) if ports.segments else Trust.unlimited())
        self.line = WaitingLine()
        self.world = World(ports.store, clock, ports.entropy, config.node, lambda: self.refill.kick())
        self.allocator = Allocator(
            ports.journal, clock, self.stock, lease.cooldown_s, lambda slot: self.keeper.must_leave(slot)
        )
        self.needs = Needs(self.world, config.features, learnt_from(state.meta), self._remember_conf)
        self.keeper = BlockKeeper(
            ports.store,
            ports.journal,
            clock,
            ports.entropy,
            self.stock,
            NodeRef(config.node, state.meta.get(NODE_UID, "").partition(" ")[0]),
            lambda slot: self.world.pools.pool_of(slot),
            LastResort(lambda slot: parents.of_slot(slot) is not None),
            lease.cooldown_s,
        )
        self.refill = Refill(
            self.world,
            self.needs,
            self.allocator,
            self.stock,
            self.keeper,
            self.line,
            clock,
            is_open,
            lease.cooldown_s - lease.cooldown_floor_s,
        )
        self.heartbeats = Heartbeats(self.world, self.refill, clock, ports.entropy, config.node, lease.heartbeat_s)
        self.refill.on_lack = self.heartbeats.hurry
        self.recalls = RecallDesk(self.refill, self.stock, self.keeper, clock, is_open, self.heartbeats.hurry)

    def _remember_conf(self, interface: str, conf: IpamConf) -> None:
        self._ports.journal.commit([remembered(interface, conf)])

    def restore(self, state: JournalState) -> None:
        """What the journal knows, before anything is read: enough to serve DEL and to recognise every address in use."""
        journal, boot_id = self._ports.journal, self._ports.boot_id
        self.keeper.shunned = lostjournal.still_shunned(state.slots, boot_id)
        lostjournal.forget(journal, state.slots, boot_id)
        self.keeper.restore(state.leases, (r for r in state.slots if not lostjournal.is_about_lost_journal(r)))
        now = self._ports.clock.now()
        for attachment in self.allocator.restore(state):
            for grant in attachment.grants:
                if grant.slot not in self.stock:
                    self.keeper.lost.add(grant.slot)  # the journal knows no lease of it
                held = self.stock.hold(grant.slot, grant.pool, now)
                if held.state in FREE_STATES:
                    self.stock.allocate(grant.slot)


class PodRecords:
    """What ties the addresses given out here to their pods: owners, MACs, SpiderEndpoints, and the pins of identities."""

    def __init__(self, config: AgentConfig, ports: Ports, holdings: Holdings) -> None:
        store, clock = ports.store, ports.clock
        stock, allocator, keeper, world = holdings.stock, holdings.allocator, holdings.keeper, holdings.world
        self.ownership = Ownership(store)
        self.macs = PodMacs(allocator, clock, ports.mac_of or no_mac)
        self.outbox = Outbox(
            store,
            ports.journal,
            clock,
            ports.entropy,
            allocator,
            world,
            self.ownership,
            config.node,
            partial(record_of, features=config.features),
            holdings.needs.clean_gateway,
            keeper.is_shared,
            Claims(store, world),
            self.macs,
        )
        self.macs.listeners.append(self.outbox.on_mac)
        self.identities = Identities(store, config.features)
        self.evidence = Evidence(store, keeper, allocator, stock, self.identities, clock)
        self.pins = Pins(store, keeper, stock, world, clock, self.evidence, holdings.needs.has_own)


class CniService:
    """What answers the runtime. `on_change`: attachments changed; `why_closed`, `why_not_ready`: as the agent's."""

    def __init__(
        self,
        config: AgentConfig,
        ports: Ports,
        holdings: Holdings,
        records: PodRecords,
        why_closed: Callable[[], str],
        why_not_ready: Callable[[], str],
        on_change: Callable[[], None],
    ) -> None:
        self.afterwards = Afterwards()
        self.adding = Adding(
            holdings.world,
            holdings.needs,
            records.ownership,
            holdings.allocator,
            holdings.stock,
            holdings.refill,
            holdings.line,
            ports.store,
            ports.clock,
            config.lease.wait_s,
            why_closed,
            on_change,
            records.pins,
            records.identities,
            records.outbox,
            ports.journal.sync,
            self.afterwards,
        )
        self.verbs = Verbs(
            holdings.world,
            holdings.allocator,
            holdings.stock,
            ports.sandboxes,
            why_not_ready,
            on_change,
            self.afterwards,
            ports.why_cut,
            records.pins.forgotten.ended,
        )
        by_verb = {
            "ADD": self.adding.add,
            "DEL": self.verbs.delete,
            "CHECK": self.verbs.check,
            "GC": self.verbs.collect,
            "STATUS": self.verbs.status,
        }
        self.front = Front(by_verb, ports.clock, self.afterwards)
