"""The lease protocol's single steps, one by one. Whole runs of them are in tests/property/ipam/test_lease_runs.py."""

from __future__ import annotations

import pytest

from ipam import lease
from ipam.addresses import Address
from ipam.blocks import Block, Cooling, Holder, NodeRef, PinOwner
from ipam.errors import BadValue
from ipam.slots import ALL_SLOTS, Page, format_slots, lowest, lowest_from, ordinals, parse_slots

PAGE = Page.parse("10.6.0.64/26")
A, B = NodeRef("node-a", "uid-a"), NodeRef("node-b", "uid-b")
WEB0 = PinOwner("StatefulSet", "default", "web-0", "eth0", "sts-1")


def block(**given: int) -> Block:
    """A block in which node-a holds the mask `a`, node-b the mask `b`."""
    built = lease.new_block(PAGE, 1000)
    for node, slots in ((A, given.get("a", 0)), (B, given.get("b", 0))):
        built = lease.claim(built, node, slots)
    return built


def test_page_names_are_computed_from_the_page_alone() -> None:
    assert PAGE.name == "ip4-10-6-0-64"
    assert Page.parse("fd00::40/122").name == "ip6-fd00-0-0-0-0-0-0-40"
    assert Page.parse("10.6.0.64/26", "rack1").name == "ip4-10-6-0-64.rack1"
    assert Page.parse(PAGE.cidr) == PAGE


@pytest.mark.parametrize("text", ["10.6.0.65/26", "10.6.0.64/25", "10.6.0.64", "fd00::/121"])
def test_anything_but_an_aligned_page_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        Page.parse(text)


@pytest.mark.parametrize(
    ("mask", "text"),
    [(0, ""), (1, "0"), (0b11, "0-1"), (0xFF | 1 << 12, "0-7,12"), (ALL_SLOTS, "0-63"), (1 << 63, "63")],
)
def test_slot_texts(mask: int, text: str) -> None:
    assert format_slots(mask) == text
    assert parse_slots(text) == mask


@pytest.mark.parametrize("text", ["64", "7-3", "3,3", "5,1", "1-", "-1", "a", "1,,2", " 1", "0-64"])
def test_slot_texts_that_are_refused(text: str) -> None:
    with pytest.raises(BadValue):
        parse_slots(text)


def test_lowest_from_wraps_round() -> None:
    assert list(ordinals(lowest_from(0b1011, 1, 2))) == [1, 3]
    assert list(ordinals(lowest_from(0b1011, 2, 2))) == [0, 3]
    assert lowest(ALL_SLOTS, 3) == 0b111


def test_slot_ids_are_the_addresses_of_the_page() -> None:
    assert [str(slot) for slot in PAGE.slot_ids(0b101)] == ["10.6.0.64", "10.6.0.66"]
    assert next(PAGE.slot_ids(1)).page == PAGE
    assert next(PAGE.slot_ids(1 << 5)).bit == 1 << 5
    assert next(PAGE.slot_ids(1)).address == Address.parse("10.6.0.64")


def test_claim_takes_free_slots_only_and_raises_the_epoch() -> None:
    before = block(a=0b11)
    after = lease.claim(before, B, 0b100)
    assert after.epoch == before.epoch + 1
    assert after.lease_of(B) is not None and after.lease_of(B).epoch == after.epoch  # type: ignore[union-attr]
    assert after.lease_of(A) == before.lease_of(A)
    with pytest.raises(lease.LeaseRefused):
        lease.claim(after, B, 0b10)


def test_a_node_recreated_under_its_name_is_another_holder() -> None:
    reborn = NodeRef("node-a", "uid-2")
    with pytest.raises(lease.LeaseRefused):
        lease.claim(block(a=1), reborn, 1)
    assert lease.give_back(block(a=1), reborn, 1) == block(a=1)


def test_choice_leaves_cooling_suspect_and_pinned_slots_alone() -> None:
    cooled = lease.give_back(block(a=0b1111), A, 0b0011, [Cooling(0b0011, 100.0)])
    assert lease.choose_free(cooled, 0b11111, 8, 0, wall=50.0) == 0b10000
    assert lease.choose_free(cooled, 0b11111, 8, 0, wall=100.0) == 0b10011
    assert lease.choose_last_resort(cooled, 0b11111, 1, wall=50.0, provable=0) == 0b00001


def test_give_back_ignores_slots_that_are_not_in_the_lease() -> None:
    before = block(a=0b1, b=0b10)
    assert lease.give_back(before, A, 0b10) is before
    assert lease.give_back(before, A, 0b11).lease_of(A) is None
    assert lease.give_back(before, A, 0b11).lease_of(B) is not None


def test_retake_needs_the_remembered_epoch() -> None:
    before = block(a=0b1)
    remembered = before.leases[0].epoch
    after = lease.retake(before, A, A, remembered)
    assert after.leases[0].epoch > remembered
    with pytest.raises(lease.LeaseRefused):
        lease.retake(after, A, A, remembered)
    renamed = lease.retake(before, NodeRef("node-a", "uid-2"), A, remembered)
    assert renamed.leases[0].node.uid == "uid-2"


def test_reclaim_makes_slots_free_and_suspect() -> None:
    before = block(a=0b11)
    after = lease.reclaim(before, before.leases[0], 0b01, term=7)
    assert (after.free & 0b11, after.suspect, after.term) == (0b01, 0b01, 7)
    assert lease.choose_free(after, 0b11, 2, 0, 0.0) == 0
    assert lease.choose_last_resort(after, 0b11, 2, 0.0, provable=0b01) == 0b01
    assert lease.choose_last_resort(after, 0b11, 2, 0.0, provable=0b10) == 0


def test_an_operator_absolves_suspect_slots_that_nobody_leases() -> None:
    before = block(a=0b11)
    taken = lease.reclaim(before, before.leases[0], 0b01, term=7)
    after = lease.absolve(taken, 0b11)
    assert (after.suspect, after.epoch, after.leases) == (0, taken.epoch + 1, taken.leases)
    assert lease.choose_free(after, 0b11, 2, 0, 0.0) == 0b01
    assert lease.absolve(after, 0b11) is after
    with pytest.raises(lease.LeaseRefused):
        lease.absolve(lease.claim(taken, B, 0b01), 0b01)


def test_reclaim_is_refused_once_the_holder_has_written_its_lease() -> None:
    before = block(a=0b11)
    remembered = before.leases[0]
    alive = lease.retake(before, A, A, remembered.epoch)
    with pytest.raises(lease.LeaseRefused):
        lease.reclaim(alive, remembered, 0b11, term=7)


def test_a_deposed_leader_is_refused() -> None:
    before = block(a=0b11)
    newer = lease.reclaim(before, before.leases[0], 0b01, term=7)
    with pytest.raises(lease.LeaseRefused):
        lease.reclaim(newer, newer.leases[0], 0b10, term=6)


def test_suspect_is_cleared_by_its_new_holder_only() -> None:
    before = block(a=0b11)
    freed = lease.reclaim(before, before.leases[0], 0b11, term=1)
    mine = lease.claim(freed, B, 0b01)
    assert lease.clear_suspect(mine, A, 0b01) is mine
    assert lease.clear_suspect(mine, B, 0b11).suspect == 0b10


def test_a_pin_outlives_its_pod_and_moves_in_one_step() -> None:
    pinned = lease.pin(block(a=0b11), A, 1, WEB0, Holder("node-a", "pod-1"))
    with pytest.raises(lease.LeaseRefused):
        lease.move_pin(pinned, WEB0, B, Holder("node-b", "pod-2"))
    vacant = lease.vacate_pin(pinned, A, 1, "pod-1")
    moved = lease.move_pin(vacant, WEB0, B, Holder("node-b", "pod-2"))
    assert moved.lease_of(A).slots == 0b01  # type: ignore[union-attr]
    assert moved.lease_of(B).slots == 0b10  # type: ignore[union-attr]
    assert moved.pins[0].holder == Holder("node-b", "pod-2")
    again = lease.move_pin(moved, WEB0, B, Holder("node-b", "pod-2"))
    assert again.pins == moved.pins and again.lease_of(B).epoch > moved.lease_of(B).epoch, "a start shows"  # type: ignore[union-attr]


def test_a_late_delete_of_the_old_pod_does_not_vacate_the_new_ones_pin() -> None:
    pinned = lease.pin(block(a=0b1), A, 0, WEB0, Holder("node-a", "pod-2"))
    assert lease.vacate_pin(pinned, A, 0, "pod-1") is pinned


def test_a_pinned_slot_is_never_claimed_or_pinned_by_another_identity() -> None:
    pinned = lease.pin(block(a=0b1), A, 0, WEB0, Holder("node-a", "pod-1"))
    loose = lease.give_back(pinned, A, 0b1)
    assert lease.choose_free(loose, ALL_SLOTS, 64, 0, 0.0) & 1 == 0
    with pytest.raises(lease.LeaseRefused):
        lease.claim(loose, B, 0b1)
    with pytest.raises(lease.LeaseRefused):
        lease.pin(pinned, A, 0, PinOwner("StatefulSet", "default", "web-1", "eth0"), Holder("node-a", "pod-9"))


def test_unpin_spares_a_pin_that_is_held() -> None:
    pinned = lease.pin(block(a=0b1), A, 0, WEB0, Holder("node-a", "pod-1"))
    with pytest.raises(lease.LeaseRefused):
        lease.unpin(pinned, 0, WEB0, term=1)
    assert lease.unpin(lease.vacate_pin(pinned, A, 0, "pod-1"), 0, WEB0, term=1).pins == ()


def test_an_empty_block_is_disposable_once_nothing_cools() -> None:
    empty = lease.give_back(block(a=0b1), A, 0b1, [Cooling(0b1, 100.0)])
    assert not empty.is_disposable(99.0)
    assert empty.is_disposable(100.0)
    assert lease.forget_expired(empty, 100.0).cooling == ()


def test_block_problems_name_the_invariant() -> None:
    from dataclasses import replace

    sound = block(a=0b1, b=0b10)
    assert sound.problems() == ()
    broken = replace(sound, leases=(*sound.leases, replace(sound.leases[0], node=NodeRef("node-c", "c"))))
    assert any(problem.startswith("I1") for problem in broken.problems())


# Live migration --------------------------------------------------------------------------------------------------------------------------

VM = PinOwner("VirtualMachineInstance", "default", "vm", "eth0")
SOURCE, TARGET, THIRD = Holder("node-a", "pod-1"), Holder("node-b", "pod-2"), Holder("node-c", "pod-3")


def migrating() -> Block:
    return lease.share_pin(lease.pin(block(a=0b11), A, 1, VM, SOURCE), VM, B, TARGET, SOURCE)


def test_a_shared_pin_moves_holder_and_lease_in_one_step_and_keeps_a_seat_for_the_source() -> None:
    shared = migrating()
    assert (shared.lease_of(A).slots, shared.lease_of(B).slots) == (0b01, 0b10)  # type: ignore[union-attr]
    (pin,) = shared.pins
    assert (pin.holder, pin.source) == (TARGET, SOURCE) and shared.is_shared(1) and shared.problems() == ()
    assert lease.share_pin(shared, VM, B, TARGET, SOURCE).pins == shared.pins


def test_the_sources_give_back_ends_the_migration_and_takes_nothing_from_the_target() -> None:
    alone = lease.give_back(migrating(), A, 0b10)
    (pin,) = alone.pins
    assert (pin.holder, pin.source) == (TARGET, None)
    assert alone.lease_of(B).slots == 0b10 and alone.epoch > migrating().epoch  # type: ignore[union-attr]
    assert lease.give_back(alone, A, 0b10) is alone


def test_the_targets_give_back_returns_the_pin_to_the_source_without_a_lease() -> None:
    back = lease.give_back(migrating(), B, 0b10)
    (pin,) = back.pins
    assert (pin.holder, pin.source) == (SOURCE, SOURCE) and not pin.is_shared and pin.seats == (SOURCE,)
    assert not back.leased & 0b10 and back.pinned == 0b10
    again = lease.share_pin(back, VM, NodeRef("node-c", "uid-c"), THIRD, SOURCE)
    assert (again.pins[0].holder, again.pins[0].source) == (THIRD, SOURCE)
    assert back.problems() == ()
    vacant = lease.give_back(back, A, 0b10)
    assert (vacant.pins[0].holder, vacant.pins[0].source) == (None, None)


def test_nobody_but_the_migrations_target_may_share_and_nobody_takes_a_shared_pin_before_both_are_gone() -> None:
    shared = migrating()
    third = NodeRef("node-c", "uid-c")
    for source in (TARGET, SOURCE):
        with pytest.raises(lease.LeaseRefused):
            lease.share_pin(shared, VM, third, THIRD, source)
    with pytest.raises(lease.LeaseRefused):
        lease.move_pin(shared, VM, third, THIRD, (TARGET,))
    with pytest.raises(lease.LeaseRefused):
        lease.unpin(lease.vacate_pin(shared, B, 1, "pod-2"), 1, VM, term=1)
    taken = lease.move_pin(shared, VM, third, THIRD, (TARGET, SOURCE))
    assert (taken.pins[0].holder, taken.pins[0].source) == (THIRD, None)


def test_a_machine_does_not_migrate_to_its_own_node() -> None:
    pinned = lease.pin(block(a=0b11), A, 1, VM, SOURCE)
    with pytest.raises(lease.LeaseRefused):
        lease.share_pin(pinned, VM, A, Holder("node-a", "pod-2"), SOURCE)


def test_what_a_node_s_sandboxes_still_use_comes_back_unless_somebody_has_it_or_it_is_pinned() -> None:
    taken = lease.reclaim(block(a=0b0111), block(a=0b0111).leases[0], 0b0111, term=1)
    assert taken.suspect == 0b0111 and taken.leased == 0
    with_other = lease.claim(taken, B, 0b0001)
    back = lease.regain(with_other, A, 0b0011)
    mine = back.lease_of(A)
    assert mine is not None and mine.slots == 0b0010 and mine.epoch == back.epoch == with_other.epoch + 1
    assert back.suspect == 0b0101, "it is suspect no longer; the others are"
    assert lease.regain(back, A, 0b0001) is back


def test_an_identity_has_one_pin_a_block_and_an_abandoned_one_ends() -> None:
    """Seed 430: a start that was given up had left a pin on another address, which the next node then took for the identity's own."""
    first = lease.pin(block(a=0b011), A, 0, WEB0, Holder("node-a", "pod-1"))
    with pytest.raises(lease.LeaseRefused):
        lease.pin(first, A, 1, WEB0, Holder("node-a", "pod-1"))
    abandoned = lease.vacate_pin(first, A, 0, "pod-1")
    second = lease.pin(abandoned, A, 1, WEB0, Holder("node-a", "pod-1"))
    assert [pin.slot for pin in second.pins] == [1]


def test_leases_under_the_former_and_the_present_node_uid_become_one() -> None:
    """Seed 46: the API server refused the re-taken lease for ever, because the node had one under its present UID already."""
    former = NodeRef("node-a", "uid-before")
    both = lease.claim(lease.claim(lease.claim(lease.new_block(PAGE, 1000), former, 0b0011), A, 0b0100), B, 0b1000)
    held = both.lease_of(former)
    assert held is not None
    after = lease.retake(both, A, former, held.epoch)
    assert after.problems() == () and after.lease_of(former) is None
    mine = after.lease_of(A)
    assert mine is not None and mine.slots == 0b0111 and mine.epoch == after.epoch == both.epoch + 1
    assert after.lease_of(B) == both.lease_of(B)
