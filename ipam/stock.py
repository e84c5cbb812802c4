"""A node's stock: every slot of its leases, in exactly one state, and the rule by which ADD picks one.

::

    hold ─> UNPROVEN ──prove──> READY ──allocate──> ALLOCATED
               ^  ^                │                    │ release
               │  └────stale───────┤                    v
               │                   │                 COOLING
               └───────────────────┼──mature────────────┘
                                   v
       any free state ──set aside─> PINNED ──allocate──> ALLOCATED ──retire──> LEAVING
       any free state, PINNED ──leave──> LEAVING ──drop──> (not ours any more)
       any free state ──accuse─> QUARANTINED ──lift──> UNPROVEN

Only READY slots are picked without a probe (I5). Within READY the least recently released goes first. `pick` costs O(1) amortised, whatever the
pool's size: states are ordered maps, and a slot moves between them at most once per event.

Times are seconds of one monotonic clock (`now`), passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from ipam.addresses import Family
from ipam.slots import PAGE_SIZE, Page, SlotId

NEVER = float("-inf")


class State(Enum):
    UNPROVEN = "unproven"  # free; must be probed before use
    READY = "ready"  # free and proven clear recently
    COOLING = "cooling"  # free, released too recently
    PINNED = "pinned"  # set aside for one identity: nobody else may have it
    ALLOCATED = "allocated"
    LEAVING = "leaving"  # journalled as no longer allocatable, on its way out of the lease
    QUARANTINED = "quarantined"  # somebody else was seen using it

    __hash__ = (
        object.__hash__
    )  # members are compared by identity; Enum's own hash is a Python call, and `count` is called very often


FREE_STATES = (State.READY, State.UNPROVEN, State.COOLING)


@dataclass(slots=True)
class Held:
    """One slot of the node's leases. `suspect`: taken by force from another node; never usable without a full probe.

    `unseen`: no interface of this node is on its segment, so that it is used without proof, unless it is suspect.
    `accused`: somebody was heard to use it after it was set aside for an identity, and no proof was begun since.
    """

    slot: SlotId
    pool: str
    state: State
    released_at: float = NEVER
    cool_until: float = NEVER
    clear_at: float = NEVER
    suspect: bool = False
    unseen: bool = False
    accused: bool = False


@dataclass(slots=True)
class Shelf:
    """One pool's slots on this node, by state, each map in the order in which its slots should be used."""

    by_state: dict[State, OrderedDict[SlotId, Held]] = field(
        default_factory=lambda: {state: OrderedDict() for state in State}
    )

    def count(self, *states: State) -> int:
        by_state, total = self.by_state, 0
        for state in states:
            total += len(by_state[state])
        return total


@dataclass(frozen=True, slots=True)
class Trust:
    """How long a clear verdict lasts. `unlimited()` is for nodes where verification is switched off: every free slot counts as ready."""

    verdict_age_s: float

    @staticmethod
    def unlimited() -> Trust:
        return Trust(float("inf"))

    def accepts(self, held: Held, now: float) -> bool:
        if held.unseen or self.verdict_age_s == float("inf"):
            return not held.suspect or held.clear_at > NEVER
        return now - held.clear_at <= self.verdict_age_s


class Stock:
    """All slots of this node's leases. Not thread-safe: one event loop owns it."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._held: dict[SlotId, Held] = {}
        self._shelves: dict[str, Shelf] = {}
        self._pages: dict[tuple[str, Family, int], dict[SlotId, Held]] = {}

    # What is there -------------------------------------------------------------------------------------------------------------------

    def __contains__(self, slot: SlotId) -> bool:
        return slot in self._held

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def get(self, slot: SlotId) -> Held | None:
        return self._held.get(slot)

    def count(self, pool: str, *states: State) -> int:
        shelf = self._shelves.get(pool)
        return shelf.count(*states) if shelf else 0

    def pools(self) -> tuple[str, ...]:
        """The pools of which this node holds slots; "" stands for slots that no pool covers any more."""
        return tuple(name for name, shelf in self._shelves.items() if any(shelf.by_state.values()))

    def of_pool(self, pool: str, *states: State) -> tuple[Held, ...]:
        shelf = self._shelves.get(pool)
        return tuple(held for state in states for held in shelf.by_state[state].values()) if shelf else ()

    def on_page(self, page: Page) -> tuple[Held, ...]:
        """The slots of one page, in the order in which they came."""
        return tuple(self._pages.get((page.domain, page.family, page.base), {}).values())

    # Slots come and go ---------------------------------------------------------------------------------------------------------------

    def hold(self, slot: SlotId, pool: str, now: float, *, cool_until: float = NEVER, suspect: bool = False) -> Held:
        """A slot entered one of the node's leases. It starts cooling or unproven; a slot already held is returned as it is."""
        if slot in self._held:
            return self._held[slot]
        state = State.COOLING if cool_until > now else State.UNPROVEN
        held = Held(slot, pool, state, cool_until=cool_until, suspect=suspect)
        self._held[slot] = held
        self._pages.setdefault(_page_key(slot), {})[slot] = held
        self._map(held)[slot] = held
        self._settle(held, now)
        return held

    def drop(self, slot: SlotId) -> None:
        """The slot left the node's leases. An allocated slot is never dropped: that would be a double use in the making."""
        held = self._held.get(slot)
        if held is None:
            return
        if held.state is State.ALLOCATED:
            raise ValueError(f"{slot} is allocated and must not leave the stock")
        del self._map(held)[slot]
        del self._held[slot]
        page = self._pages[_page_key(slot)]
        del page[slot]
        if not page:
            del self._pages[_page_key(slot)]

    def leave(self, slots: Iterable[SlotId]) -> tuple[Held, ...]:
        """Mark free and pinned slots as leaving; returns those that were. The caller journals them before it tells anyone."""
        left = []
        for slot in slots:
            held = self._held.get(slot)
            if held is not None and held.state in (*FREE_STATES, State.PINNED):
                self._move(held, State.LEAVING)
                left.append(held)
        return tuple(left)

    def surplus(self, pool: str, count: int, now: float) -> tuple[SlotId, ...]:
        """Up to `count` slots to give back that are free and do not cool."""
        self.mature(pool, now)
        return tuple(held.slot for held in self.of_pool(pool, State.UNPROVEN, State.READY)[:count])

    def rested(self, pool: str, count: int, now: float, early_s: float) -> tuple[SlotId, ...]:
        """Up to `count` cooling slots to give back: only those whose rest ends within `early_s`. What travels with a slot is wall time, which
        another node's clock may contradict; the least rest is had here.
        """
        cooling = [held.slot for held in self.of_pool(pool, State.COOLING) if held.cool_until <= now + early_s]
        return tuple(cooling[:count])

    def repool(self, slot: SlotId, pool: str) -> None:
        """The pools changed: the slot belongs to another one now, or to none ("")."""
        held = self._held[slot]
        if held.pool != pool:
            del self._map(held)[slot]
            held.pool = pool
            self._map(held)[slot] = held

    # Allocation ----------------------------------------------------------------------------------------------------------------------

    def pick(self, pool: str, now: float) -> Held | None:
        """The slot that the next ADD of `pool` should get, or None. Changes nothing that a second `pick` would see differently."""
        shelf = self._shelves.get(pool)
        if shelf is None:
            return None
        self.mature(pool, now)
        ready = shelf.by_state[State.READY]
        while ready:
            held = next(iter(ready.values()))
            if self._trust.accepts(held, now):
                return held
            self._move(held, State.UNPROVEN)
        return None

    def pick_unproven(self, pool: str, now: float) -> Held | None:
        """A free slot that may be used after an inline probe, or None."""
        self.mature(pool, now)
        shelf = self._shelves.get(pool)
        return next(iter(shelf.by_state[State.UNPROVEN].values()), None) if shelf else None

    def set_aside(self, slot: SlotId) -> None:
        """Nobody but the identity that it is pinned to, or about to be, may have this slot. One that is not free stays as it is."""
        held = self._held.get(slot)
        if held is not None and held.state in FREE_STATES:
            held.accused = False
            self._move(held, State.PINNED)

    def pinned(self) -> tuple[Held, ...]:
        """The slots that are set aside."""
        return tuple(held for shelf in self._shelves.values() for held in shelf.by_state[State.PINNED].values())

    def allocate(self, slot: SlotId) -> None:
        """Bind a slot that is ready, unproven and just probed, or set aside for its identity. Raises ValueError if it must not be bound."""
        held = self._held[slot]
        if held.state in (State.ALLOCATED, State.QUARANTINED, State.LEAVING):
            raise ValueError(f"{slot} is {held.state.value} and must not be allocated")
        self._move(held, State.ALLOCATED)

    def release(self, slot: SlotId, now: float, cooldown_s: float) -> None:
        """The sandbox is gone: the address cools down before anyone gets it again."""
        held = self._held[slot]
        if held.state is not State.ALLOCATED:
            return
        held.released_at = now
        held.cool_until = now + cooldown_s
        held.clear_at = NEVER
        self._move(held, State.COOLING)

    def retire(self, slot: SlotId, now: float, cooldown_s: float) -> None:
        """The sandbox of a pinned slot is gone: the slot leaves the lease at once, so that the identity can start on any node."""
        held = self._held[slot]
        if held.state is not State.ALLOCATED:
            return
        held.released_at = now
        held.cool_until = now + cooldown_s
        held.clear_at = NEVER
        self._move(held, State.LEAVING)

    # Verdicts ------------------------------------------------------------------------------------------------------------------------

    def unproven(self, now: float) -> tuple[Held, ...]:
        """Free slots that want a probe: never proven, or proven too long ago."""
        for pool, shelf in self._shelves.items():
            self.mature(pool, now)
            for held in [h for h in shelf.by_state[State.READY].values() if not self._trust.accepts(h, now)]:
                self._move(held, State.UNPROVEN)
        return tuple(held for shelf in self._shelves.values() for held in shelf.by_state[State.UNPROVEN].values())

    def prove(self, slot: SlotId, now: float) -> None:
        """A probe found the address silent."""
        held = self._held.get(slot)
        if held is not None:
            held.clear_at = now
            held.suspect = False
            if held.state is State.UNPROVEN:
                self._move(held, State.READY)

    def unsee(self, slot: SlotId) -> None:
        """No interface of this node is on the slot's segment: no probe can prove it. A suspect one stays unproven, and is never picked here: it
        has to leave (see `suspects`).
        """
        held = self._held.get(slot)
        if held is not None and not held.unseen:
            held.unseen = True
            self._settle(held, NEVER)

    def suspects(self) -> tuple[Held, ...]:
        """Free slots that were taken by force and that no probe of ours has found silent yet."""
        return tuple(
            held
            for shelf in self._shelves.values()
            for state in FREE_STATES
            for held in shelf.by_state[state].values()
            if held.suspect
        )

    def unseen_pools(self) -> frozenset[str]:
        """The pools of which slots are, or would be, handed out without proof."""
        return frozenset(held.pool for held in self._held.values() if held.unseen)

    def distrust(self, slot: SlotId) -> None:
        """The slot was taken by force from another node: not to be used before a probe of ours finds it silent."""
        held = self._held.get(slot)
        if held is not None and held.state in FREE_STATES and held.clear_at == NEVER:
            held.suspect = True

    def accuse(self, slot: SlotId) -> bool:
        """Somebody else uses the address. True if it was free here and is quarantined now; an allocated one stays (it is defended), and so does
        one that is set aside, which is remembered as accused: its identity must not start with it now.
        """
        held = self._held.get(slot)
        if held is not None and held.state is State.PINNED:
            held.accused = True
        if held is None or held.state not in FREE_STATES:
            return False
        held.clear_at = NEVER
        self._move(held, State.QUARANTINED)
        return True

    def absolve(self, slot: SlotId) -> None:
        """A new proof of an address that is set aside begins: only what is heard from now on counts against it."""
        held = self._held.get(slot)
        if held is not None:
            held.accused = False

    def lift(self, slot: SlotId, now: float) -> None:
        """The quarantine is over: the slot is free again, and unproven."""
        held = self._held.get(slot)
        if held is not None and held.state is State.QUARANTINED:
            self._move(held, State.UNPROVEN)
            self._settle(held, now)

    # Inside --------------------------------------------------------------------------------------------------------------------------

    def _map(self, held: Held) -> OrderedDict[SlotId, Held]:
        shelf = self._shelves.get(held.pool)
        if shelf is None:
            shelf = self._shelves[held.pool] = Shelf()
        return shelf.by_state[held.state]

    def _move(self, held: Held, state: State) -> None:
        del self._map(held)[held.slot]
        held.state = state
        self._map(held)[held.slot] = held

    def _settle(self, held: Held, now: float) -> None:
        """A free slot whose trust needs no probe is ready at once."""
        if held.state is State.UNPROVEN and self._trust.accepts(held, now):
            self._move(held, State.READY)

    def mature(self, pool: str, now: float) -> None:
        """Cooling slots whose time is over become unproven (or ready, where no proof is asked for).

        Slots enter COOLING in the order of their release, with one cooldown, so the first that is not over ends the walk; slots that arrived
        with a longer rest of cooldown only wait a little longer behind each other.
        """
        shelf = self._shelves.get(pool)
        cooling = shelf.by_state[State.COOLING] if shelf else None
        while cooling:
            held = next(iter(cooling.values()))
            if held.cool_until > now:
                return
            self._move(held, State.UNPROVEN)
            self._settle(held, now)

    def next_rested(self, pool: str) -> float | None:
        """When the next cooling slot of the pool has rested; None if none is cooling."""
        shelf = self._shelves.get(pool)
        return (
            min((held.cool_until for held in shelf.by_state[State.COOLING].values()), default=None) if shelf else None
        )

    def hasten(self, pool: str, now: float, early_s: float, count: int) -> int:
        """Somebody waits and there is nothing else: up to `count` cooling slots whose rest ends within `early_s` become unproven, oldest first.

        Returns how many. They need a probe like any other, where probes are made.
        """
        shelf = self._shelves.get(pool)
        cooling = shelf.by_state[State.COOLING].values() if shelf else ()
        chosen = sorted(
            (held for held in cooling if held.cool_until <= now + early_s), key=lambda held: held.cool_until
        )
        for held in chosen[:count]:
            self._move(held, State.UNPROVEN)
            self._settle(held, now)
        return len(chosen[:count])


def _page_key(slot: SlotId) -> tuple[str, Family, int]:
    return slot.domain, slot.family, slot.value & -PAGE_SIZE
