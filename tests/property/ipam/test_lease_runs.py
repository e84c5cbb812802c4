"""Random runs of the lease protocol by three nodes and two leaders on one block: I1, I6, epochs and terms hold after every step."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ipam import lease
from ipam.blocks import Block, Cooling, Holder, Lease, NodeRef, PinOwner
from ipam.slots import ALL_SLOTS, Page

NODES = tuple(NodeRef(name, f"uid-{name}") for name in "abc")
OWNERS = tuple(PinOwner("StatefulSet", "default", f"web-{i}", "eth0") for i in range(3))
nodes = st.sampled_from(NODES)
masks = st.integers(0, ALL_SLOTS)


class LeaseRuns(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.block: Block = lease.new_block(Page.parse("10.0.0.0/26"), 5)
        self.remembered: Lease | None = None
        self.wall = 0.0

    def put(self, new: Block) -> None:
        """What the API server enforces on every write."""
        assert new is self.block or new.epoch > self.block.epoch
        assert new.term >= self.block.term
        self.block = new

    def attempt(self, change: object) -> None:
        with suppress(lease.LeaseRefused):
            self.put(change())  # type: ignore[operator]

    @rule(node=nodes, usable=masks, count=st.integers(0, 20), start=st.integers(0, 63))
    def claim(self, node: NodeRef, usable: int, count: int, start: int) -> None:
        chosen = lease.choose_free(self.block, usable, count, start, self.wall)
        assert chosen & (self.block.leased | self.block.pinned | self.block.suspect | ~usable) == 0
        assert chosen.bit_count() <= count
        self.put(lease.claim(self.block, node, chosen))

    @rule(node=nodes, usable=masks, count=st.integers(0, 20), provable=masks)
    def claim_last_resort(self, node: NodeRef, usable: int, count: int, provable: int) -> None:
        chosen = lease.choose_last_resort(self.block, usable, count, self.wall, provable)
        assert chosen & ~(self.block.suspect & provable | self.block.cooling_at(self.wall) & ~self.block.suspect) == 0
        self.put(lease.claim(self.block, node, chosen))

    @rule(node=nodes, slots=masks)
    def claim_blindly(self, node: NodeRef, slots: int) -> None:
        self.attempt(lambda: lease.claim(self.block, node, slots))

    @rule(slots=masks)
    def absolve(self, slots: int) -> None:
        self.attempt(lambda: lease.absolve(self.block, slots))

    @rule(node=nodes, slots=masks, rest=st.floats(1, 100))
    def give_back(self, node: NodeRef, slots: int, rest: float) -> None:
        self.put(lease.give_back(self.block, node, slots, [Cooling(slots, self.wall + rest)]))

    @rule(node=nodes)
    def remember(self, node: NodeRef) -> None:
        self.remembered = self.block.lease_of(node)

    @rule(slots=masks, term=st.integers(0, 5))
    def reclaim(self, slots: int, term: int) -> None:
        if self.remembered is None:
            return
        before = self.block
        self.attempt(lambda: lease.reclaim(self.block, self.remembered, slots, term))
        taken = before.leased & ~self.block.leased
        assert taken & ~self.block.suspect == 0

    @rule(node=nodes)
    def retake(self, node: NodeRef) -> None:
        current = self.block.lease_of(node)
        if current:
            self.put(lease.retake(self.block, node, node, current.epoch))

    @rule(node=nodes, slot=st.integers(0, 63), owner=st.sampled_from(OWNERS))
    def pin(self, node: NodeRef, slot: int, owner: PinOwner) -> None:
        if self.block.pin_of(owner) is None:
            self.attempt(lambda: lease.pin(self.block, node, slot, owner, Holder(node.name, f"pod-{owner.name}")))

    @rule(node=nodes, owner=st.sampled_from(OWNERS))
    def move(self, node: NodeRef, owner: PinOwner) -> None:
        self.attempt(lambda: lease.move_pin(self.block, owner, node, Holder(node.name, f"pod-{node.name}")))

    @rule(owner=st.sampled_from(OWNERS))
    def vacate(self, owner: PinOwner) -> None:
        pin = self.block.pin_of(owner)
        if pin and pin.holder:
            node = next(n for n in NODES if n.name == pin.holder.node)
            self.put(lease.vacate_pin(self.block, node, pin.slot, pin.holder.pod_uid))

    @rule(owner=st.sampled_from(OWNERS), term=st.integers(0, 5))
    def unpin(self, owner: PinOwner, term: int) -> None:
        pin = self.block.pin_of(owner)
        if pin:
            self.attempt(lambda: lease.unpin(self.block, pin.slot, owner, term))

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.block = lease.forget_expired(self.block, self.wall)

    @invariant()
    def nothing_is_inconsistent(self) -> None:
        assert self.block.problems() == ()

    @invariant()
    def each_slot_is_leased_or_free(self) -> None:
        assert self.block.leased ^ self.block.free == ALL_SLOTS


TestLeaseRuns = LeaseRuns.TestCase
TestLeaseRuns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
