"""The node's side of fencing: time closes it, contact opens it, a mark needs every lease re-taken."""

from __future__ import annotations

from ipam.fence import NO_MAILBOX, Fence, acknowledged, cleared, observed


def opened(at: float = 0.0) -> Fence:
    return acknowledged(observed(Fence(lease_s=300.0, mailbox_uid="m1"), "m1", ""), at)


def test_open_until_the_lease_time_after_the_last_acknowledged_heartbeat_was_sent() -> None:
    assert opened(0.0).is_open(300.0)
    assert not opened(0.0).is_open(300.1)
    assert "300 s" in opened(0.0).why_closed(301.0)


def test_never_open_before_the_first_acknowledgement() -> None:
    assert not Fence(lease_s=300.0).is_open(0.0)


def test_a_lapse_ends_by_contact() -> None:
    assert acknowledged(opened(0.0), 400.0).is_open(400.0)


def test_an_older_acknowledgement_never_moves_time_back() -> None:
    assert acknowledged(opened(100.0), 50.0).acknowledged_at == 100.0


def test_a_mark_closes_at_once_and_contact_alone_does_not_open() -> None:
    marked = observed(opened(0.0), "m1", "mark-7")
    assert not marked.is_open(1.0)
    assert not acknowledged(marked, 2.0).is_open(2.0)
    assert not observed(marked, "m1", "").is_open(3.0)
    assert "mark-7" in marked.why_closed(1.0)


def test_answering_the_mark_opens() -> None:
    marked = observed(opened(0.0), "m1", "mark-7")
    assert cleared(marked, "mark-7", "m1", 5.0).is_open(5.0)


def test_a_later_mark_survives_the_answer_to_an_earlier_one() -> None:
    marked = observed(observed(opened(0.0), "m1", "mark-7"), "m1", "mark-8")
    assert not cleared(marked, "mark-7", "m1", 5.0).is_open(5.0)


def test_a_missing_or_replaced_mailbox_counts_as_a_mark() -> None:
    assert observed(opened(0.0), None, "").mark == NO_MAILBOX
    assert observed(opened(0.0), "m2", "").mark == NO_MAILBOX
    assert cleared(observed(opened(0.0), None, ""), NO_MAILBOX, "m3", 4.0).is_open(4.0)
