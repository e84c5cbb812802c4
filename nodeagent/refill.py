"""Keeps every pool's stock on this node at its target: claims what is missing, gives back what is too much, wakes who waits.

Event-driven: `kick` after anything that changes demand; a tick only matures cooling addresses and retries. Off the ADD path, one round at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from adapters.clock import Clock
from ipam import demand
from ipam.errors import ApiUnreachable
from ipam.stock import FREE_STATES, State, Stock
from nodeagent.allocator import Allocator
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.needs import Needs
from nodeagent.waiting import WaitingLine
from nodeagent.world import World

log = structlog.get_logger(__name__)

TICK_S = 1.0
STARVING_TICK_S = 0.1
SETTLE_S = 0.02  # a burst of ADDs is looked at once, after it, unless somebody waits
API_REST_S = 1.0
EXHAUSTED_S = 1.0  # how long "nothing to be had" is believed before a waiting ADD makes us look again


class Refill:
    def __init__(
        self,
        world: World,
        needs: Needs,
        allocator: Allocator,
        stock: Stock,
        keeper: BlockKeeper,
        line: WaitingLine,
        clock: Clock,
        is_open: Callable[[], bool],
    ) -> None:
        self._world = world
        self._needs = needs
        self._allocator = allocator
        self._stock = stock
        self._keeper = keeper
        self._line = line
        self._clock = clock
        self._is_open = is_open
        self._kicked = asyncio.Event()
        self._exhausted: dict[str, float] = {}
        self._repooled = -1
        self.targets: dict[str, int] = {}

    def kick(self) -> None:
        """Something changed; look soon."""
        self._kicked.set()

    def is_exhausted(self, pool: str) -> bool:
        """True if a claim for a waiting ADD got nothing a moment ago: the next pool of its list should be tried."""
        return self._clock.now() - self._exhausted.get(pool, float("-inf")) < EXHAUSTED_S

    async def run(self) -> None:
        while True:
            try:
                await self.round()
                rest = STARVING_TICK_S if self._line.pools() else TICK_S
            except ApiUnreachable as error:
                log.warning("refill_failed", error=str(error))
                rest = API_REST_S
            await self._rest(rest)

    async def round(self) -> None:
        """One pass over all pools. Raises ApiUnreachable."""
        self._kicked.clear()
        self._repool()
        self._wake()
        if not self._is_open():
            return
        needed = self._needs.bound(
            (a.pod_uid, a.key.ifname, grant.pool) for a in self._allocator.all() for grant in a.grants
        )
        pools = sorted({*needed, *self._line.pools(), *self._stock.pools(), *self.targets} - {""})
        # Those for which an ADD waits come first.
        for pool in sorted(pools, key=lambda name: -self._line.waiting(name)):
            await self._serve(pool, needed[pool])
        await self._return_strays()

    async def _serve(self, pool: str, needed: int) -> None:
        """Claim or give back for one pool."""
        addresses = self._world.pools.effective.get(pool)
        known = self._world.pools.catalog.get(pool)
        if addresses is None or known is None:
            self.targets.pop(pool, None)
            return
        self._stock.mature(pool, self._clock.now())
        used = self._stock.count(pool, State.ALLOCATED)
        usable = self._stock.count(pool, State.READY, State.UNPROVEN)  # cooling addresses serve nobody yet
        size = demand.batch(addresses.size, demand.UNKNOWN_NODE_COUNT)
        target = demand.target(needed, size) if needed and not (known.disable or known.deleting) else 0
        self.targets[pool] = target
        waiting = self._line.waiting(pool)
        missing = max(target - used - usable, waiting - usable)
        if missing > 0:
            got = await self._keeper.claim(pool, known.domain, addresses, missing, urgent_for=max(waiting - usable, 0))
            if waiting and not got:
                self._exhausted[pool] = self._clock.now()
                self._line.wake(pool, waiting)
            elif got:
                self._line.wake(pool, got)
        elif not waiting and (surplus := used + usable - target - size) > 0:
            await self._keeper.give_back(self._stock.surplus(pool, min(surplus, usable), self._clock.now()))

    async def _return_strays(self) -> None:
        """Free slots that no pool covers any more go back at once."""
        strays = [held.slot for held in self._stock.of_pool("", *FREE_STATES)]
        if strays:
            await self._keeper.give_back(strays)
        leaving = [held for pool in self._stock.pools() for held in self._stock.of_pool(pool, State.LEAVING)]
        if leaving:
            offset = self._clock.wall() - self._clock.now()
            await self._keeper.finish_leaving({held.slot: held.cool_until + offset for held in leaving})

    def _repool(self) -> None:
        """The pools were edited: every held slot belongs to the pool that covers it now."""
        pools = self._world.pools
        if self._repooled == pools.generation:
            return
        self._repooled = pools.generation
        for held in list(self._stock):
            self._stock.repool(held.slot, pools.pool_of(held.slot))

    def _wake(self) -> None:
        """Cooling addresses may have matured for somebody who waits."""
        now = self._clock.now()
        for pool in self._line.pools():
            if self._stock.pick(pool, now) is not None:
                self._line.wake(pool, self._stock.count(pool, State.READY))

    async def _rest(self, seconds: float) -> None:
        """Until the next kick, but no longer than `seconds`."""
        waiter = asyncio.ensure_future(self._kicked.wait())
        sleeper = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((waiter, sleeper), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            sleeper.cancel()
        if not self._line.pools():
            await self._clock.sleep(SETTLE_S)
