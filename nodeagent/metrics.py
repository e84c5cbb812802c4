"""Prometheus metrics of one agent, computed on scrape from the very state that decides. No pod, address or container id is ever a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from adapters.clock import Clock
from adapters.families import EVENTS_DROPPED, LAG, WATCH_AGE, Family, counter, gauge
from ipam.stock import NEVER, State
from nodeagent.agent import Agent
from nodeagent.happenings import HAPPENINGS, Happenings
from nodeagent.spool import Spool

READY = gauge("nephila_ready", "1 if an ADD can be served now; readiness and CNI STATUS say the same.")
FENCED = gauge("nephila_fenced", "1 while a fence mark is being answered: nothing is handed out.")
HEARTBEAT = gauge(
    "nephila_heartbeat_age_seconds",
    "Since the last heartbeat that the API server acknowledged was sent; beyond the lease time the node fences itself.",
)
LEASE = gauge("nephila_lease_seconds", "The lease time: what nephila_heartbeat_age_seconds must stay below.")
LAPSES = counter("nephila_lease_lapses_total", "Times that the lease time passed without an acknowledged heartbeat.")
MARKS = counter("nephila_fence_marks_total", "Fence marks, or lost mailboxes, that this agent found.")
SLOTS = gauge(
    "nephila_node_slots",
    'Slots of this node\'s leases, by pool and state; pool "" is for slots that no pool covers any more.',
    "pool",
    "state",
)
WANTED = gauge("nephila_node_wanted", "Free addresses that waiting and bound pods of this node need now.", "pool")
TARGET = gauge("nephila_node_target", "Free addresses that this node tries to keep ready, warm stock included.", "pool")
WAITING = gauge("nephila_waiting_allocations", "ADDs that stand in line for an address now.", "pool")
WAITS = counter(
    "nephila_waits_total", "Times that an ADD stood in line, for each pool that would have served it.", "pool"
)
VERDICT_AGE = gauge(
    "nephila_oldest_verdict_age_seconds", "Age of the oldest clear verdict among the ready addresses.", "pool"
)
ATTACHMENTS = gauge("nephila_attachments", "Pod interfaces that hold addresses on this node.")
BLOCKS = gauge("nephila_blocks_leased", "Blocks of which this node holds a lease.")
WRITES = counter("nephila_lease_writes_total", "Compare-and-swaps on blocks that were tried.")
CONFLICTS = counter("nephila_lease_conflicts_total", "Compare-and-swaps on blocks that another writer won.")
SUSPECTED = gauge("nephila_leak_candidates", "Allocations that look leaked and are being confirmed.")
LEAK_AGE = gauge("nephila_leak_oldest_seconds", "For how long the oldest leak candidate has looked leaked.")
LEAKS = counter("nephila_leaks_released_total", "Allocations that were proven leaked and freed.")
CONFLICTING = gauge("nephila_address_conflicts", "Addresses of ours that another machine was seen to use.")
NOTICES = counter("nephila_notices_total", "Things told as Events (docs/reference/events.md), by reason.", "reason")
PROBE_MODE = gauge("nephila_probe_mode", "1 for how the segment is watched: ebpf, packet, or off.", "mode")
OUTBOX = gauge("nephila_outbox_entries", "SpiderEndpoints that are out of date.")
SPOOL = gauge("nephila_spool_entries", "DELs that the shim spooled and that were not replayed yet.")

STATES = (
    READY,
    FENCED,
    HEARTBEAT,
    LEASE,
    LAPSES,
    MARKS,
    SLOTS,
    WANTED,
    TARGET,
    WAITING,
    WAITS,
    VERDICT_AGE,
    ATTACHMENTS,
    BLOCKS,
    WRITES,
    CONFLICTS,
    SUSPECTED,
    LEAK_AGE,
    LEAKS,
    CONFLICTING,
    NOTICES,
    EVENTS_DROPPED,
    PROBE_MODE,
    OUTBOX,
    SPOOL,
    WATCH_AGE,
    LAG,
)
AGENT_FAMILIES: tuple[Family, ...] = (*HAPPENINGS, *STATES)


class AgentCollector(Collector):
    """`lag_s`: the loop's worst recent lag (`adapters.pulse`). Building it attaches `happened` to the agent."""

    def __init__(
        self, agent: Agent, spool: Spool, happened: Happenings, clock: Clock, lag_s: Callable[[], float]
    ) -> None:
        self._agent = agent
        self._spool = spool
        self._happened = happened
        self._clock = clock
        self._lag_s = lag_s
        agent.adding.observers.append(happened.on_add)
        agent.front.observers.append(happened.on_request)

    def collect(self) -> Iterator[Metric]:
        yield from self._happened.collect()
        yield from self._fence()
        yield from self._pools()
        yield from self._blocks()
        yield from self._trouble()
        yield from self._queues()

    def _fence(self) -> Iterator[Metric]:
        agent = self._agent
        yield READY.value(0 if agent.why_not_ready() else 1)
        fence = agent.mailbox.fence if agent.mailbox is not None else None
        yield FENCED.value(1 if fence is not None and fence.mark else 0)
        if fence is not None and fence.acknowledged_at > NEVER:
            yield HEARTBEAT.value(self._clock.now() - fence.acknowledged_at)
        yield LEASE.value(agent.config.lease.lease_s)
        yield LAPSES.value(agent.teller.lapses)
        yield MARKS.value(agent.teller.marks)

    def _pools(self) -> Iterator[Metric]:
        agent, stock, now = self._agent, self._agent.stock, self._clock.now()
        pools = sorted(stock.pools())
        yield SLOTS.samples(((pool, state.value), stock.count(pool, state)) for pool in pools for state in State)
        needy = sorted({*pools, *agent.refill.wanting()} - {""})
        yield WANTED.samples(((pool,), agent.refill.wanted(pool)) for pool in needy)
        yield TARGET.samples(((pool,), target) for pool, target in sorted(agent.refill.targets.items()))
        yield WAITING.samples(((pool,), agent.line.waiting(pool)) for pool in sorted({*needy, *agent.line.pools()}))
        yield WAITS.samples(((pool,), waits) for pool, waits in sorted(agent.line.waits.items()))
        oldest = {
            pool: min((held.clear_at for held in stock.of_pool(pool, State.READY)), default=NEVER) for pool in pools
        }
        yield VERDICT_AGE.samples(((pool,), now - since) for pool, since in oldest.items() if since > NEVER)

    def _blocks(self) -> Iterator[Metric]:
        agent = self._agent
        yield ATTACHMENTS.value(len(agent.allocator.all()))
        yield BLOCKS.value(len(agent.keeper.leases()))
        yield WRITES.value(agent.keeper.counters.attempts)
        yield CONFLICTS.value(agent.keeper.counters.conflicts)

    def _trouble(self) -> Iterator[Metric]:
        agent = self._agent
        yield SUSPECTED.value(agent.reconciler.candidates)
        yield LEAK_AGE.value(agent.reconciler.oldest_s)
        yield LEAKS.value(agent.reconciler.released)
        yield CONFLICTING.value(len(agent.segments.conflicts()))
        yield NOTICES.samples(((reason,), count) for reason, count in sorted(agent.teller.counts.items()))
        yield EVENTS_DROPPED.value(agent.events.dropped)
        yield PROBE_MODE.samples([((agent.segments.mode.value,), 1)])

    def _queues(self) -> Iterator[Metric]:
        agent, now = self._agent, self._clock.now()
        yield OUTBOX.value(agent.outbox.depth)
        yield SPOOL.value(self._spool.depth)
        yield WATCH_AGE.samples(
            ((reflector.kind.plural,), now - reflector.last_contact)
            for reflector in agent.world.reflectors
            if reflector.last_contact is not None
        )
        yield LAG.value(self._lag_s())
