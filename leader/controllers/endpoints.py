"""Removes SpiderEndpoints of pods that are gone: after two observations apart in time and a live look, never that of an identity that is wanted: a
StatefulSet's pod, a KubeVirt machine.

It frees no address: that is the agent's, after DEL. It only ends a record that no agent is left to end.
"""

from __future__ import annotations

import structlog

from adapters.clock import Clock
from adapters.kube.store import StoreError
from crds.core import STATEFUL_SET
from crds.identities import MACHINE
from crds.meta import UNSET
from leader.identities import is_machine_wanted, wants
from leader.loop import Allowance
from leader.sight import Sight
from leader.views import ENDPOINT_VIEW, POD_VIEW, EndpointView
from leader.writing import Writer

log = structlog.get_logger(__name__)


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
            if endpoint is None or endpoint.uid != uid:
                continue
            if await self._is_really_orphan(endpoint):
                await self._remove(endpoint)
            elif _is_machine(endpoint):
                self._suspected[uid] = now  # switched off: asked again after a while

    def _is_orphan(self, endpoint: EndpointView) -> bool:
        """As far as our copies tell."""
        if endpoint.status is UNSET or self._sight.has_pod(endpoint.status.current.uid):
            return False
        kind, name = endpoint.status.owner_controller_type, endpoint.status.owner_controller_name
        return kind != "StatefulSet" or not wants(self._sight.sets.get(name, endpoint.namespace), endpoint.name, name)

    async def _is_really_orphan(self, endpoint: EndpointView) -> bool:
        """The same question, asked of the API server."""
        if endpoint.status is UNSET:
            return False
        if _is_machine(endpoint):
            return not await self._is_machine_wanted(endpoint)
        pod = await self._writer.store.get(POD_VIEW, endpoint.name, endpoint.namespace)
        if pod is not None and pod.uid == endpoint.status.current.uid:
            return False
        if endpoint.status.owner_controller_type != "StatefulSet":
            return True
        name = endpoint.status.owner_controller_name
        owner = await self._writer.store.get(STATEFUL_SET, name, endpoint.namespace)
        return not wants(owner, endpoint.name, name)

    async def _is_machine_wanted(self, endpoint: EndpointView) -> bool:
        try:
            return await is_machine_wanted(self._writer.store, endpoint.namespace, endpoint.name)
        except StoreError as error:  # perhaps the kind is not served (any more): nothing is known, so the record stays
            log.warning("identity_unknown", kind=MACHINE, name=endpoint.name, error=str(error))
            return True

    async def _remove(self, endpoint: EndpointView) -> None:
        if await self._writer.delete(ENDPOINT_VIEW, endpoint):
            self.removed += 1
            log.info("endpoint_removed", namespace=endpoint.namespace, name=endpoint.name)


def _is_machine(endpoint: EndpointView) -> bool:
    """Recorded under the machine's name, and for it; with the feature off, a machine's pod is recorded under its own name, and as its pod's."""
    if endpoint.status is UNSET:
        return False
    kind, name = endpoint.status.owner_controller_type, endpoint.status.owner_controller_name
    return kind == MACHINE and name == endpoint.name
