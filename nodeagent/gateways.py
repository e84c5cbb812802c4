"""Do the gateways of the pools answer? Asked ahead, and remembered, so that an ADD looks it up.

A gateway is asked as an address is probed (from 0.0.0.0 or ::), through the interface that it is behind. It is silent after a whole test without an
answer; one that answered before gets a second test first. What could not be tested (no link) counts as not answering, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import structlog

from adapters.clock import Clock
from crds.nephila import GATEWAYS_MAX, GatewayState
from ipam.errors import GatewayUnreachable
from ipam.slots import SlotId
from ipam.stock import Stock
from nodeagent.segments import Segments, SegmentWatch
from nodeagent.world import World
from probes.prober import Lane, Reach

log = structlog.get_logger(__name__)

LOOK_S = 0.25  # how soon a gateway that was not asked yet is asked
DOUBT_S = 2.0  # between two tests of one that does not answer
MISSES = 2  # tests in a row without an answer, after which one that answered before is silent
STALE = 3.0  # what is known holds for so many intervals

Tell = Callable[[str, Collection[str], str], None]  # reason, pools, note


@dataclass(slots=True)
class _Known:
    """`reachable` None: it could not be tested, and never was. `due`: of the next test; `at`: of the last that said something."""

    due: float = float("-inf")
    at: float = float("-inf")
    reachable: bool | None = None
    misses: int = 0
    mac: str = ""


class Gateways:
    """Run `run()` as a task. `knows` and `require` cost a look-up."""

    def __init__(
        self, clock: Clock, world: World, stock: Stock, segments: Segments, tell: Tell, *, interval_s: float
    ) -> None:
        self._clock = clock
        self._world = world
        self._stock = stock
        self._segments = segments
        self._tell = tell
        self._interval_s = interval_s
        self._known: dict[SlotId, _Known] = {}
        self._asking = asyncio.Lock()

    def knows(self, pools: Iterable[str]) -> bool:
        """Whether it was found out, not too long ago, if the gateways of these pools answer."""
        return all(self._is_known(gateway) for gateway in self._of(pools))

    def require(self, pools: Iterable[str]) -> None:
        """Raises GatewayUnreachable if a gateway of these pools does not answer. One that is behind no interface of this node is not asked for."""
        for pool in pools:
            for gateway in self._of((pool,)):
                known = self._known.get(gateway)
                if known is None or known.reachable:
                    continue
                why = "does not answer on" if known.reachable is False else "could not be asked, for the link is down:"
                raise GatewayUnreachable(
                    f"gateway {gateway.address} of IPPool {pool} {why} {self._interface(gateway)}",
                    hint="check the gateway and the pool's spec.gateway; or set probe.gateway to report in the agent's settings",
                )

    async def learn(self, pools: Iterable[str]) -> None:
        """Ask now those that are not known; afterwards they are."""
        wanted = tuple(pools)
        async with self._asking:
            await self._ask([gateway for gateway in self._of(wanted) if not self._is_known(gateway)], Lane.ADD)
            for gateway in self._of(wanted):
                if not self._is_known(gateway):
                    self._note(gateway, Reach(None))  # its interface is not open

    async def run(self) -> None:
        """Keep what is known of the gateways fresh of which this node holds addresses, for ever."""
        while True:
            wanted = set(self._of(self._stock.pools()))
            for gone in self._known.keys() - wanted:
                if not self._is_known(gone):
                    del self._known[gone]
            now = self._clock.now()
            due = [gateway for gateway in wanted if self._known.get(gateway, _Known()).due <= now]
            await self._ask(due, Lane.BACKGROUND)
            await self._clock.sleep(LOOK_S)

    def states(self) -> tuple[GatewayState, ...]:
        """What the heartbeat says."""
        wall, now = self._clock.wall(), self._clock.now()
        words = {True: "answers", False: "silent", None: "unknown"}
        return tuple(
            GatewayState(
                ip=str(gateway.address),
                interface=self._interface(gateway),
                state=words[known.reachable],
                mac=known.mac,
                checked=datetime.fromtimestamp(wall - now + max(known.at, 0.0), UTC),
            )
            for gateway, known in islice(sorted(self._known.items()), GATEWAYS_MAX)
        )

    # Inside --------------------------------------------------------------------------------------------------------------------------

    def _of(self, pools: Iterable[str]) -> Iterator[SlotId]:
        """The gateways that can be asked from here."""
        catalog = self._world.pools.catalog
        for name in pools:
            pool = catalog.get(name)
            if pool is not None and pool.gateway is not None:
                gateway = SlotId(pool.domain, pool.family, pool.gateway.value)
                if self._segments.of(gateway) is not None:
                    yield gateway

    def _is_known(self, gateway: SlotId) -> bool:
        known = self._known.get(gateway)
        return known is not None and self._clock.now() - known.at < STALE * self._interval_s

    def _interface(self, gateway: SlotId) -> str:
        watch = self._segments.of(gateway)
        return watch.interface if watch is not None else ""

    async def _ask(self, gateways: Iterable[SlotId], lane: Lane) -> None:
        of_segment: dict[SegmentWatch, list[SlotId]] = {}
        for gateway in dict.fromkeys(gateways):
            watch = self._segments.of(gateway)
            if watch is not None and watch.prober is not None:
                of_segment.setdefault(watch, []).append(gateway)
        for watch, asked in of_segment.items():
            assert watch.prober is not None
            found = await watch.prober.reach([gateway.address for gateway in asked], lane=lane)
            for gateway in asked:
                self._note(gateway, found[gateway.address])

    def _note(self, gateway: SlotId, reach: Reach) -> None:
        now, known = self._clock.now(), self._known.setdefault(gateway, _Known())
        before = known.reachable
        known.due = now + (self._interval_s if reach.reachable else DOUBT_S)
        if reach.reachable:
            known.reachable, known.misses, known.mac, known.at = True, 0, reach.mac, now
        elif reach.reachable is False:
            known.misses += 1
            if not before or known.misses >= MISSES:
                known.reachable, known.at = False, now
        elif not self._is_known(gateway):
            known.reachable, known.at = None, now
        if known.reachable is before:
            return
        log.info("gateway_changed", gateway=str(gateway.address), reachable=known.reachable, mac=known.mac)
        pools = sorted(pool for pool in self._stock.pools() if gateway in self._of((pool,)))
        if known.reachable is False:
            note = f"gateway {gateway.address} does not answer on {self._interface(gateway)}"
            self._tell("GatewaySilent", pools, note)
        elif known.reachable and before is False:
            note = f"gateway {gateway.address} answers again, from {known.mac}"
            self._tell("GatewayAnswers", pools, note)
