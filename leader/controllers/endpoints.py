"""Removes SpiderEndpoints of pods that are gone: after two observations apart in time and a live look, never that of a wanted StatefulSet pod.

It frees no address: that is the agent's, after DEL. It only ends a record that no agent is left to end.
"""

from __future__ import annotations

import structlog

from adapters.clock import Clock
from crds import convert
from crds.core import STATEFUL_SET, StatefulSet
from crds.meta import UNSET
from ipam.owners import is_wanted_ordinal
from leader.loop import Allowance
from leader.sight import Sight
from leader.views import ENDPOINT_VIEW, POD_VIEW, EndpointView
from leader.writing import Writer

log = structlog.get_logger(__name__)

# Identities that outlive their pods; who wants them is not known here, so their records stay.
KEPT_OWNERS = frozenset({"VirtualMachineInstance", "VirtualMachine", "IPAMClaim"})


class Endpoints:
    def __init__(self, sight: Sight, writer: Writer, clock: Clock, orphan_s: float, allowance: Allowance) -> None:
        self._sight = sight
        self._writer = writer
        self._clock = clock
        self._orphan_s = orphan_s
        self._allowance = allowance
        self._suspected: dict[str, float] = {}  # UID of the SpiderEndpoint → when it was first seen orphaned
        self.removed = 0

    async def work(self) -> None:
        """One pass. Raises StoreError, Deposed."""
        now = self._clock.now()
        orphans = {endpoint.uid: endpoint for endpoint in self._sight.endpoints if self._is_orphan(endpoint)}
        self._suspected = {uid: self._suspected.get(uid, now) for uid in orphans}
        for uid, since in self._suspected.items():
            if now - since < self._orphan_s or not self._allowance.take():
                continue
            endpoint = await self._writer.store.get(ENDPOINT_VIEW, orphans[uid].name, orphans[uid].namespace)
            if endpoint is not None and endpoint.uid == uid and await self._is_really_orphan(endpoint):
                await self._remove(endpoint)

    def _is_orphan(self, endpoint: EndpointView) -> bool:
        """As far as our copies tell."""
        if endpoint.status is UNSET or self._sight.has_pod(endpoint.status.current.uid):
            return False
        kind, name = endpoint.status.owner_controller_type, endpoint.status.owner_controller_name
        if kind in KEPT_OWNERS:
            return False
        return kind != "StatefulSet" or not is_wanted(
            self._sight.sets.get(name, endpoint.namespace), endpoint.name, name
        )

    async def _is_really_orphan(self, endpoint: EndpointView) -> bool:
        """The same question, asked of the API server."""
        if endpoint.status is UNSET:
            return False
        pod = await self._writer.store.get(POD_VIEW, endpoint.name, endpoint.namespace)
        if pod is not None and pod.uid == endpoint.status.current.uid:
            return False
        if endpoint.status.owner_controller_type != "StatefulSet":
            return True
        name = endpoint.status.owner_controller_name
        owner = await self._writer.store.get(STATEFUL_SET, name, endpoint.namespace)
        return not is_wanted(owner, endpoint.name, name)

    async def _remove(self, endpoint: EndpointView) -> None:
        if await self._writer.delete(ENDPOINT_VIEW, endpoint):
            self.removed += 1
            log.info("endpoint_removed", namespace=endpoint.namespace, name=endpoint.name)


def is_wanted(owner: StatefulSet | None, pod: str, set_name: str) -> bool:
    """Whether the StatefulSet, at its present size, has a pod of this name. One that is being deleted wants none."""
    if owner is None or owner.deleting:
        return False
    start, replicas = convert.ordinals(owner)
    return is_wanted_ordinal(pod, set_name=set_name, start=start, replicas=replicas)
