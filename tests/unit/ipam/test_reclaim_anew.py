"""After a taking: what was written to a dead node's lease meanwhile is waited for again, and what was taken is not."""

from __future__ import annotations

from ipam import lease, reclaim
from ipam.blocks import Block, Lease, NodeRef
from ipam.reclaim import Beat, Mailbox, Marked, Remembered
from ipam.slots import ALL_SLOTS, Page

PAGE = Page.parse("10.6.0.0/26")
DEAD = NodeRef("n1", "uid-1")
BEAT = Beat(1, "boot", "uid-1")
BOX = Mailbox("box", "5", BEAT, "mark")


def leased(block: Block) -> Lease:
    found = block.lease_of(DEAD)
    assert found is not None
    return found


def marked(block: Block) -> Marked:
    return Marked("box", BEAT, "mark", {(PAGE, DEAD.uid): leased(block)}, 0.0)


def test_a_lease_that_was_taken_whole_asks_for_no_further_mark() -> None:
    block = lease.claim(lease.new_block(PAGE, 7), DEAD, 0b1110)
    before = marked(block)
    after = reclaim.taken(before, block, reclaim.take(before, block, ALL_SLOTS, 3))
    assert reclaim.begun_anew(before, after, BOX, [(PAGE, leased(block))]) == after
    assert after.leases == {}


def test_a_lease_that_was_taken_in_part_is_gone_on_with_under_the_same_mark() -> None:
    block = lease.claim(lease.new_block(PAGE, 7), DEAD, 0b1110)
    before = marked(block)
    rest = reclaim.take(before, block, 0b0110, 3)
    after = reclaim.taken(before, block, rest)
    assert reclaim.begun_anew(before, after, BOX, [(PAGE, leased(block))]) == after
    assert reclaim.begun_anew(after, after, BOX, [(PAGE, leased(rest))]) == after
    assert reclaim.begun_anew(after, after, BOX, [(PAGE, leased(block))]) == after  # a picture older than ours


def test_a_lease_that_was_written_since_is_remembered_as_it_is_now_and_what_was_taken_is_not() -> None:
    other = Page.parse("10.6.0.64/26")
    taken, late = (lease.claim(lease.new_block(page, 7), DEAD, 0b1110) for page in (PAGE, other))
    before = Marked("box", BEAT, "mark", {(page.page, DEAD.uid): leased(page) for page in (taken, late)}, 0.0)
    late = lease.claim(late, DEAD, 0b10000)
    after = reclaim.taken(before, taken, reclaim.take(before, taken, ALL_SLOTS, 3))
    assert reclaim.take(before, late, ALL_SLOTS, 3) is late
    anew = reclaim.begun_anew(before, after, BOX, [(PAGE, leased(taken)), (other, leased(late))])
    assert anew == Remembered("box", "5", BEAT, {(other, DEAD.uid): leased(late)})
