"""Keeps every pool's stock on this node at its target: claims what is missing, gives back what is too much, wakes who waits.

Event-driven: `kick` after anything that changes demand; a tick only matures cooling addresses and retries. Off the ADD path, one round at a time;
within it, pools that the leader offers addresses of are served side by side: the families of one ADD do not wait for each other. Others are served in
turns: a burst of ADDs that goes on meanwhile is then served by fewer claims, and fewer nodes meet on one page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog

from adapters.clock import Clock
from adapters.waking import Kick
from ipam import demand, lease
from ipam.errors import ApiUnreachable
from ipam.slots import Page, SlotId
from ipam.stock import State, Stock
from nodeagent.abreast import abreast
from nodeagent.allocator import Allocator
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.lostslots import LostSlots
from nodeagent.needs import Needs
from nodeagent.waiting import WaitingLine
from nodeagent.world import World

log = structlog.get_logger(__name__)

TICK_S = 1.0
INTERFACE_S = 0.5  # main plugins ask for the DEL before they remove the interface: for so long a pinned address may still be on it
STARVING_TICK_S = 0.05
SETTLE_S = 0.01  # a burst of ADDs is looked at once, after it
AT_ONCE = 4  # pools that the leader offered are served side by side
API_REST_S = 1.0
FIRST_DRY_S = 0.05
SAVING_S = 10.0  # how long a recalled pool is held without warm stock, so that what was given back is not claimed again
EXHAUSTED_S = 1.0  # the longest pause between two claims on a pool that had nothing to give
RECALL_S = 0.7  # how long an ADD waits for another node's free address before it goes on to the next pool of its list; most come within 0.25 s


@dataclass(frozen=True, slots=True)
class _Dry:
    """A pool of which claims have got nothing, from `since` on."""

    since: float
    until: float
    pause_s: float
    told: bool = False  # those who wait know that they may go on to their next pool


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
        early_s: float = 0.0,
    ) -> None:
        """`early_s`: by how much a starving node may cut an address's cooldown short."""
        self._world = world
        self._needs = needs
        self._allocator = allocator
        self._stock = stock
        self._keeper = keeper
        self._line = line
        self._clock = clock
        self._is_open = is_open
        self._early_s = early_s
        self._gone_at: float | None = None  # when the next sandbox's interface is surely gone
        self._lost = LostSlots(keeper, stock, clock)
        self._kicked = Kick()
        self._told = Kick()
        self._dry: dict[str, _Dry] = {}
        self._saving_until: dict[str, float] = {}
        self._offered: dict[str, tuple[str, ...]] = {}
        self._needed: dict[str, int] = {}
        self._lacking: dict[str, int] = {}
        self._ending: dict[str, int] = {}  # addresses in use here of pools that are being deleted, as told
        self._repooled = -1
        # Told when what this node lacks changes, or uses of a pool that is being deleted, for the leader to know at once.
        self.on_lack: Callable[[], None] | None = None
        # Told of a pool for which an ADD waits, while addresses of it are here that want a proof.
        self.on_unproven: Callable[[str], None] | None = None
        self.targets: dict[str, int] = {}

    def kick(self) -> None:
        """Something changed; look soon."""
        self._kicked()

    def is_exhausted(self, pool: str) -> bool:
        """True if nothing can be hoped for from this pool now, so that the next one of an ADD's list should be tried.

        A claim that gets nothing shows it, if the leader says that nothing is free elsewhere, or says nothing. Else the free addresses lie on other
        nodes: they are recalled first, and so much time they have.
        """
        dry = self._dry.get(pool)
        if dry is None:
            return False
        supply = self._world.supply(pool)
        return supply is None or supply[0] == 0 or self._clock.now() - dry.since >= RECALL_S

    def wanted(self, pool: str) -> int:
        """Free addresses that this node needs now: for ADDs that wait, and for pods that are bound here and have not asked yet."""
        used = self._stock.count(pool, State.ALLOCATED)
        return max(self._needed.get(pool, 0) - used, self._line.waiting(pool) + self._line.counting_on(pool), 0)

    def wanting(self) -> set[str]:
        """The pools of which this node needs free addresses."""
        return {pool for pool in {*self._needed, *self._line.pools()} - {""} if self.wanted(pool)}

    def save(self, pool: str) -> None:
        """Another node lacks addresses of the pool: no warm stock of it for a while."""
        self._saving_until[pool] = self._clock.now() + SAVING_S

    def offer(self, pool: str, pages: tuple[str, ...]) -> None:
        """The leader says where addresses of the pool can be claimed now: no need to search, nor to wait."""
        self._offered[pool] = pages
        self.save(pool)
        if pool in self._dry:
            self._dry[pool] = replace(self._dry[pool], until=float("-inf"), pause_s=FIRST_DRY_S)
        self._told()
        self.kick()

    async def run(self) -> None:
        while True:
            try:
                await self.round()
                rest = self._tick_s()
            except ApiUnreachable as error:
                log.warning("refill_failed", error=str(error))
                self._make_do()
                rest = API_REST_S
            await self._rest(rest)

    def _tick_s(self) -> float:
        """For how long time alone changes nothing. Where ADDs wait: until a dry pool is tried again, or an address has rested."""
        moments = [self._clock.now() + TICK_S] + ([self._gone_at] if self._gone_at is not None else [])
        for pool in self._line.pools():
            is_dry = pool in self._dry
            moments += [self._dry[pool].until] if is_dry else []
            rested = self._stock.next_rested(pool)
            moments += [] if rested is None else [rested - self._early_s if is_dry else rested]
        return max(min(moments) - self._clock.now(), STARVING_TICK_S)

    async def round(self) -> None:
        """One pass over all pools. Raises ApiUnreachable."""
        self._kicked.clear()
        self._told.clear()
        self._repool()
        self._wake()
        if not self._is_open():
            return
        await self._return_unprovable()
        needed = self._needs.bound(
            (a.pod_uid, a.key.ifname, grant.pool) for a in self._allocator.all() for grant in a.grants
        )
        self._needed = dict(needed)
        likely = self._needs.likely()
        pools = sorted({*needed, *likely, *self._line.pools(), *self._stock.pools(), *self.targets} - {""})
        bound = {pool: needed[pool] if needed[pool] or pool in likely else None for pool in pools}
        lacking = {pool for pool in pools if self._line.waiting(pool) or self._short(pool) > 0}
        # Those for which an ADD waits come first; of these, those that the leader has just said where to find.
        offered = [pool for pool in pools if pool in lacking and pool in self._offered]
        await abreast(lambda pool: self._serve_lacking(pool, bound[pool]), offered, AT_ONCE)
        others = [pool for pool in pools if pool not in offered]
        for pool in sorted(others, key=lambda name: (-self._line.waiting(name), name not in lacking)):
            serve = self._serve_lacking if pool in lacking else self._serve
            await serve(pool, bound[pool])
        self._tell_lack()
        await self._return_strays()
        await self._keeper.look_again()
        await self._lost.regain()
        await self._clear_suspects()

    async def _serve_lacking(self, pool: str, needed: int | None) -> None:
        await self._serve(pool, needed)
        self._tell_lack()

    async def _serve(self, pool: str, needed: int | None) -> None:
        """Claim or give back for one pool. `needed` None: no pod here uses it, nor is one likely to, so that not even a warm stock is kept."""
        addresses = self._world.pools.effective.get(pool)
        known = self._world.pools.catalog.get(pool)
        if addresses is None or known is None:
            self.targets.pop(pool, None)
            self._dry.pop(pool, None)
            self._ending.pop(pool, None)
            return
        now = self._clock.now()
        self._stock.mature(pool, now)
        used = self._stock.count(pool, State.ALLOCATED)
        usable = self._stock.count(pool, State.READY, State.UNPROVEN)  # cooling addresses serve nobody yet
        cooling = self._stock.count(pool, State.COOLING)
        waiting, counting = self._line.waiting(pool), self._line.counting_on(pool)
        if known.deleting:
            self._tell_of_end(pool, used)
        if known.disable or known.deleting or self._needs.is_barred(known):
            needed, waiting, counting = None, 0, 0
        size = self._batch(pool, addresses.size)
        if needed is None:
            needed, size = 0, 1
        needed = max(needed, used + counting)  # also for pods that the watch has not shown yet
        self.targets[pool] = demand.target(needed, size)
        starving = max(waiting - usable, 0)
        missing, got = max(demand.missing(needed, used, usable, size), starving), 0
        if missing and now >= self._retry_at(pool):
            hints = tuple(Page.parse(cidr, known.domain) for cidr in self._offered.pop(pool, ()))
            got = await self._keeper.claim(
                pool, known.domain, addresses, missing, urgent_for=starving, hints=hints if starving else ()
            )
            self._claimed(pool, got)
        elif not waiting:
            await self._keeper.give_back(
                [
                    *self._stock.surplus(pool, demand.surplus(needed, used, usable, size), now),
                    *self._stock.rested(
                        pool, demand.resting_surplus(needed, used, usable, cooling, size), now, self._early_s
                    ),
                ]
            )
        if starving and (got or pool in self._dry):
            self._hasten(pool)
        self._hurry(pool)

    def _make_do(self) -> None:
        """Nothing can be had from elsewhere now, so what cools here serves those who wait."""
        for pool in self._line.pools() if self._is_open() else ():
            known = self._world.pools.catalog.get(pool)
            if known is not None and not known.disable and not known.deleting:
                self._stock.mature(pool, self._clock.now())
                self._hasten(pool)
                self._hurry(pool)

    def _hurry(self, pool: str) -> None:
        if self.on_unproven is not None and self._line.waiting(pool) and self._stock.count(pool, State.UNPROVEN):
            self.on_unproven(pool)

    def _hasten(self, pool: str) -> None:
        """What cools here, or was claimed cooling, serves who waits; nothing more is claimed for them then."""
        short = self._line.waiting(pool) - self._stock.count(pool, State.READY, State.UNPROVEN)
        if short > 0 and (count := self._stock.hasten(pool, self._clock.now(), self._early_s, short)):
            self._line.wake(pool, count)

    def _retry_at(self, pool: str) -> float:
        """After a claim that got nothing, the next one waits: 50 ms, then twice as long, up to EXHAUSTED_S."""
        return self._dry[pool].until if pool in self._dry else float("-inf")

    def _claimed(self, pool: str, got: int) -> None:
        if got:
            self._dry.pop(pool, None)
            self._line.wake(pool, got)
            return
        now, dry = self._clock.now(), self._dry.get(pool)
        pause = min(2 * dry.pause_s, EXHAUSTED_S) if dry else FIRST_DRY_S
        dry = _Dry(dry.since if dry else now, now + pause, pause, told=dry is not None and dry.told)
        self._dry[pool] = dry
        if not dry.told and self.is_exhausted(pool):
            # Once, and all, also those who came during the claim: who has another pool in its list goes on to that.
            self._dry[pool] = replace(dry, told=True)
            self._line.wake(pool, self._line.waiting(pool))

    def _batch(self, pool: str, size: int) -> int:
        """How many addresses at a time, by what the leader last published; 1, that is no warm stock, where a node starves."""
        if pool in self._dry or self._clock.now() < self._saving_until.get(pool, 0.0):
            return 1
        free, nodes = self._world.supply(pool) or (size, demand.UNKNOWN_NODE_COUNT)
        return demand.batch(free, nodes)

    def _tell_lack(self) -> None:
        """The leader hears of starvation, and of its end, at once."""
        lacking = {pool: short for pool in self.wanting() if (short := self._short(pool)) > 0}
        if lacking != self._lacking and self.on_lack is not None:
            self.on_lack()
        self._lacking = lacking

    def _tell_of_end(self, pool: str, used: int) -> None:
        """Whoever deleted the pool waits until nothing of it is in use anywhere, and a heartbeat may be far off."""
        if self._ending.get(pool) != used:
            self._ending[pool] = used
            if self.on_lack is not None:
                self.on_lack()

    def _short(self, pool: str) -> int:
        """How many more free addresses of the pool are needed here than there are."""
        return self.wanted(pool) - self._stock.count(pool, State.READY, State.UNPROVEN)

    def passed_over(self, pool: str) -> tuple[SlotId, ...]:
        """The suspect slots of the pool that are nobody's, and that nothing here can prove, as the last claim in vain found them."""
        return self._keeper.last_resort.passed_over(pool)

    async def _return_unprovable(self) -> None:
        """Suspect slots that nothing here can prove serve nobody here: given back before anything is counted on, also while they rest."""
        can_prove = self._keeper.last_resort.can_prove
        await self._keeper.give_back([held.slot for held in self._stock.suspects() if not can_prove(held.slot)])

    async def _return_strays(self) -> None:
        """Free slots that no pool covers any more go back at once."""
        everything, now = len(self._stock), self._clock.now()
        strays = (
            *self._stock.surplus("", everything, now),
            *self._stock.rested("", everything, now, self._early_s),
        )
        if strays:
            await self._keeper.give_back(strays)
        leaving = [held for pool in self._stock.pools() for held in self._stock.of_pool(pool, State.LEAVING)]
        lingering = [held.released_at + INTERFACE_S for held in leaving if held.released_at + INTERFACE_S > now]
        self._gone_at = min(lingering, default=None)
        leaving = [held for held in leaving if held.released_at + INTERFACE_S <= now]
        if leaving:
            offset = self._clock.wall() - self._clock.now()
            await self._keeper.finish_leaving({held.slot: held.cool_until + offset for held in leaving})

    async def _clear_suspects(self) -> None:
        """Slots that a leader once took by force, and that a full probe of ours found silent, are like any other from now on (I5)."""
        for page, seen in list(self._keeper.leases().items()):
            proven = sum(
                slot.bit
                for slot in page.slot_ids(seen.block.suspect)
                if (held := self._stock.get(slot)) is not None and not held.suspect
            )
            if proven:
                await self._keeper.change(page, partial(lease.clear_suspect, node=self._keeper.me, slots=proven))

    def _repool(self) -> None:
        """The pools were edited: every held slot belongs to the pool that covers it now."""
        pools = self._world.pools
        if self._repooled == pools.generation:
            return
        self._repooled = pools.generation
        for name in self._line.pools():
            if name not in pools.effective:
                self._line.wake(name, self._line.waiting(name))  # their selection may have another answer now
        for held in list(self._stock):
            self._stock.repool(held.slot, pools.pool_of(held.slot))

    def _wake(self) -> None:
        """Cooling addresses may have matured for somebody who waits."""
        now = self._clock.now()
        for pool in self._line.pools():
            if self._stock.pick(pool, now) is not None:
                self._line.wake(pool, self._stock.count(pool, State.READY))

    async def _rest(self, seconds: float) -> None:
        """Until the next kick, but no longer than `seconds`. Kicks of ADDs that already wait cannot make it spin: see SETTLE_S. An offer need
        not settle: the leader makes few, and only to who lacks addresses.
        """
        await self._kicked.within(self._clock, seconds)
        await self._told.within(self._clock, SETTLE_S)
