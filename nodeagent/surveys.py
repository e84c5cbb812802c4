"""When a segment is asked who answers for everything: before the first address of a network is tested, again and again, and after a flap.

A gateway with proxy ARP would otherwise make every address look used (`probes.proxyarp`). Only networks with an address that certainly nobody
holds are asked: in others, an administrator names the proxy (`probe.proxyMACs`), or each address that it answers for stays held back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import structlog

from adapters.clock import Clock
from ipam.addresses import Network
from probes.prober import PROXY_FACTS_S, Prober

log = structlog.get_logger(__name__)

RENEW_S = PROXY_FACTS_S / 2  # so that what is known never lapses between two surveys
LOOK_S = 0.5  # how soon a flap or a new network is noticed
MAX_NETWORKS = 64  # of one segment; addresses of others are tested without a survey


class Surveys:
    """Run `run()` as a task. `networks` is asked at each look, the most urgent first; `told` gets the proxies that were not known before, and is
    called after every survey.
    """

    def __init__(
        self,
        prober: Prober,
        clock: Clock,
        networks: Callable[[], Sequence[Network]],
        told: Callable[[Collection[str]], None],
    ) -> None:
        self._prober = prober
        self._clock = clock
        self._networks = networks
        self._told = told
        self._since = float("-inf")  # surveys before this moment were of a segment that may have been another one
        self._up = True
        self._flaps = prober.flaps()
        self._looked_after: frozenset[Network] = frozenset()

    def covers(self, network: Network) -> bool:
        """Whether addresses of `network` may be tested: it was surveyed, or cannot be."""
        if network in self._looked_after:
            return self._prober.surveyed(network) > self._since
        return not self._prober.can_survey(network) or len(self._looked_after) >= MAX_NETWORKS

    async def run(self) -> None:
        while True:
            self._notice_flap()
            network = self._next()
            if network is None or not self._up:
                await self._clock.sleep(LOOK_S)
                continue
            await self._survey(network)

    def _notice_flap(self) -> None:
        """A link that was down may come up on another segment, or with another gateway."""
        up, flaps = self._prober.link_up(), self._prober.flaps()
        if (up and not self._up) or flaps != self._flaps:
            self._since = self._clock.now()
        self._up, self._flaps = up, flaps

    def _next(self) -> Network | None:
        """The first network whose survey is due."""
        wanted = tuple(network for network in dict.fromkeys(self._networks()) if self._prober.can_survey(network))
        chosen = wanted[:MAX_NETWORKS]
        for gone in self._looked_after.difference(chosen):
            self._prober.forget_survey(gone)
        self._looked_after = frozenset(chosen)
        oldest = max(self._since, self._clock.now() - RENEW_S)
        return next((network for network in chosen if self._prober.surveyed(network) <= oldest), None)

    async def _survey(self, network: Network) -> None:
        began, before = self._prober.surveyed(network), self._prober.proxies
        found = await self._prober.survey(network)
        if self._prober.surveyed(network) == began:
            await self._clock.sleep(LOOK_S)  # no result: the link went down meanwhile
            return
        if found != before:
            log.warning("proxies_found", network=str(network), macs=sorted(found))
        self._told(found - before)
