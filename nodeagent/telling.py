"""What the agent tells people: Events on pods, pools and its node, recorded off the ADD path, bounded and aggregated by `EventRecorder`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from adapters.clock import Clock
from adapters.kube.events import EventRecorder, reference
from crds.core import NODE, POD, ObjectReference
from crds.spiderpool import IP_POOL
from ipam.fence import Fence
from ipam.slots import SlotId
from nodeagent.adding import AddOutcome
from nodeagent.allocator import Attachment
from nodeagent.front import Served
from nodeagent.notices import AGENT_NOTICES, NORMAL

AWAITED_S = 1.0  # a shorter wait is nobody's concern
MAX_NOTE = 900

_ON_FAILED_ADD = frozenset(
    {
        "PoolExhausted",
        "DeadlineExceeded",
        "PinnedElsewhere",
        "NoPoolSelected",
        "NoPoolMatches",
        "PoolNotFound",
        "BadAnnotation",
        "GatewayUnreachable",
    }
)


class Teller:
    """`counts`: notices by reason, told or not (Events may be dropped; these are not)."""

    def __init__(
        self, events: EventRecorder, clock: Clock, node: str, holder_of: Callable[[SlotId], Attachment | None]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.lapses = 0
        self.marks = 0
        self._events = events
        self._clock = clock
        self._node = reference(NODE, node)
        self._holder_of = holder_of

    def on_address(self, reason: str, slot: SlotId, pool: str, note: str) -> None:
        """On the pool and the node, and on the pod that holds the address if one does."""
        regarding = [reference(IP_POOL, pool)] if pool else []
        regarding.append(self._node)
        if (holder := self._holder_of(slot)) is not None:
            regarding.append(_pod(holder))
        self._tell(reason, "Verify", note, *regarding)

    def on_request(self, served: Served) -> None:
        """An ADD that failed for a reason that its user can see to."""
        error, request = served.error, served.request
        if served.verb != "ADD" or error is None or request is None or error.reason not in _ON_FAILED_ADD:
            return
        note = f"{error}; {error.details}" if error.details else str(error)
        self._tell(
            error.reason, "Allocate", note[:MAX_NOTE], reference(POD, request.pod, request.namespace, request.pod_uid)
        )

    def on_add(self, outcome: AddOutcome) -> None:
        if outcome.how == "waited" and outcome.seconds >= AWAITED_S:
            addresses = ", ".join(f"{grant.slot.address} of {grant.pool}" for grant in outcome.attachment.grants)
            note = f"got {addresses} after {outcome.seconds:.1f} s: this node had no free address"
            self._tell("AddressAwaited", "Allocate", note, _pod(outcome.attachment))

    def on_leak(self, attachment: Attachment) -> None:
        addresses = ", ".join(str(grant.slot.address) for grant in attachment.grants)
        note = f"freed {addresses} of {attachment.namespace}/{attachment.pod}: its sandbox and its pod are gone, and no DEL came"
        self._tell("LeakReleased", "Reconcile", note, self._node)

    def on_fence(self, before: Fence, after: Fence) -> None:
        """The mailbox's view of the fence changed. A first start has nothing to lose and is not told."""
        started = before.acknowledged_at > float("-inf")
        if after.mark and after.mark != before.mark and started:
            self.marks += 1
            self._tell("NodeFenced", "Heartbeat", f"mark {after.mark}: every lease is re-taken before use", self._node)
        if before.mark and not after.mark and started:
            self._tell("NodeUnfenced", "Heartbeat", f"mark {before.mark} is answered", self._node)
        silent = self._clock.now() - before.acknowledged_at
        if started and after.acknowledged_at > before.acknowledged_at and silent > before.lease_s:
            self.lapses += 1
            self._tell("LeaseLapsed", "Heartbeat", f"no heartbeat was acknowledged for {silent:.0f} s", self._node)

    def on_segment(self, why: str) -> None:
        self._tell("SegmentUnusable", "Verify", why, self._node)

    def on_gateway(self, reason: str, pools: Collection[str], note: str) -> None:
        """On the pools whose gateway it is, and on the node."""
        self._tell(reason, "Verify", note, *(reference(IP_POOL, pool) for pool in pools), self._node)

    def _tell(self, reason: str, action: str, note: str, *regarding: ObjectReference) -> None:
        notice = AGENT_NOTICES[reason]
        self.counts[reason] += 1
        tell = self._events.normal if notice.type == NORMAL else self._events.warning
        for subject in regarding:
            tell(subject, reason, action, note)


def _pod(attachment: Attachment) -> ObjectReference:
    return reference(POD, attachment.pod, attachment.namespace, attachment.pod_uid)
