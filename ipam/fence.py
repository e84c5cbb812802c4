"""May this node hand out new slots? The node's side of self-fencing and of the leader's fence mark (design.md section 4, points 5 and 6).

::

    LAPSED ──acknowledged, no mark stands──> OPEN ──lease time without an acknowledged heartbeat──> LAPSED
      any ──a new mark, a missing mailbox, a mailbox with another UID──> MARKED
    MARKED ──every lease re-taken under a new epoch, and then the mark cleared (or the mailbox made)──> OPEN

A lapse ends by reaching the API server. A mark does not: the leader may already have decided on what it remembers, so every lease must change its
epoch first; "it still says mine" is not enough (the model finds a double address within 13 steps).

Times are `now` seconds of CLOCK_BOOTTIME; an acknowledgement counts from *before* its heartbeat was sent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

NO_MAILBOX = "mailbox-missing"  # the mark that stands for a mailbox which is gone or is another one


@dataclass(frozen=True, slots=True)
class Fence:
    """`acknowledged_at`: when the last heartbeat that the API server accepted was about to be sent; -inf for never."""

    lease_s: float
    acknowledged_at: float = float("-inf")
    mailbox_uid: str = ""
    mark: str = ""

    def is_open(self, now: float) -> bool:
        """True if new slots may be handed out at `now`. Pods that already hold an address are served in any case."""
        return not self.mark and now - self.acknowledged_at <= self.lease_s

    def why_closed(self, now: float) -> str:
        """For errors and status; "" if open."""
        if self.mark:
            return f"fence mark {self.mark} is being answered"
        if now - self.acknowledged_at > self.lease_s:
            return f"no heartbeat was acknowledged for more than {self.lease_s:.0f} s"
        return ""


def observed(fence: Fence, mailbox_uid: str | None, standing_mark: str) -> Fence:
    """The mailbox was read: its UID (None: there is none) and the id of the mark that stands in it ("": none).

    Marks are never forgotten here, only by `cleared`.
    """
    if mailbox_uid is None or (fence.mailbox_uid and mailbox_uid != fence.mailbox_uid):
        return replace(fence, mark=standing_mark or NO_MAILBOX, mailbox_uid=mailbox_uid or "")
    if standing_mark:
        return replace(fence, mark=standing_mark, mailbox_uid=mailbox_uid)
    return replace(fence, mailbox_uid=mailbox_uid)


def acknowledged(fence: Fence, sent_at: float) -> Fence:
    """The API server accepted a heartbeat that was begun at `sent_at`."""
    return replace(fence, acknowledged_at=max(fence.acknowledged_at, sent_at))


def cleared(fence: Fence, mark: str, mailbox_uid: str, sent_at: float) -> Fence:
    """Every lease was re-taken, and then the mark's end was written to the mailbox. Another mark found meanwhile stays."""
    kept = "" if fence.mark == mark else fence.mark
    return acknowledged(replace(fence, mark=kept, mailbox_uid=mailbox_uid), sent_at)
