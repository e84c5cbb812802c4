"""When the agent writes to its mailbox: every period, at once when the leader wrote a fence mark, in a moment when it asked or offered something, and
soon when the leader must hear from this node.
"""

from __future__ import annotations

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.waking import Kick
from ipam.errors import ApiUnreachable
from nodeagent.mailbox import Mailbox
from nodeagent.recall import Hurry, RecallDesk
from nodeagent.refill import Refill
from nodeagent.world import World

log = structlog.get_logger(__name__)

RETRY_S = 2.0
ANSWER_S = 0.03  # a recall's answer, or what came of an offer, is mostly there after this: the heartbeat takes it along, and does not delay it


class Heartbeats:
    """Run `run(mailbox)` as a task once the first heartbeat was acknowledged."""

    def __init__(
        self,
        world: World,
        refill: Refill,
        clock: Clock,
        entropy: Entropy,
        node: str,
        period_s: float,
    ) -> None:
        self._world = world
        self._refill = refill
        self._clock = clock
        self._entropy = entropy
        self._node = node
        self._period_s = period_s
        self._hurry = Hurry(clock)
        self._now = Kick()
        self._urgent = False

    def hurry(self) -> None:
        """What the leader must know of this node changed: the next heartbeat shall not wait."""
        self._urgent = True
        self._now()

    async def run(self, mailbox: Mailbox, recalls: RecallDesk) -> None:
        """Until cancelled."""
        self._world.mailbox.listen(lambda _old, _new: self._now())
        self._world.mailbox.listen(lambda _old, new: recalls.notice(new))
        recalls.notice(
            self._world.mailbox.get(self._node)
        )  # what the leader wrote while this agent was away or starting
        while True:
            await self._pause(mailbox, self._period_s * self._entropy.uniform(0.9, 1.0))
            try:
                await mailbox.beat()
                self._refill.kick()
            except ApiUnreachable as error:
                log.warning("heartbeat_failed", error=str(error))
                await self._clock.sleep(min(RETRY_S, self._period_s))

    async def _pause(self, mailbox: Mailbox, seconds: float) -> None:
        """Until the next heartbeat is due, the leader wrote something that we have not seen, or it must hear from us."""
        deadline = self._clock.now() + seconds
        while (rest := deadline - self._clock.now()) > 0:
            self._now.clear()
            await self._now.within(self._clock, rest)
            if self._urgent:
                self._urgent = False
                await self._clock.sleep(self._hurry.delay_s())
                return
            stored = self._world.mailbox.get(self._node)
            seen = mailbox.object
            if stored is None or seen is None or stored.spec.fence != seen.spec.fence:
                return
            if stored.spec != seen.spec:
                self._now.clear()
                await self._now.within(self._clock, ANSWER_S)
                self._urgent = False  # this heartbeat is the one that is wanted
                return
