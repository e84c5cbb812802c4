"""Fills what follows from other fields (`crds.derived`), where admission did not. A pool works without any of it."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from adapters.kube.store import Conflict, Stored
from crds import convert
from crds.derived import of_pool, of_reserved, of_subnet
from crds.spiderpool import IP_POOL, RESERVED_IP, SUBNET
from ipam.applications import label_value
from leader.loop import Allowance
from leader.sight import Sight
from leader.workloads import Workloads
from leader.writing import Writer

log = structlog.get_logger(__name__)


class Derived:
    def __init__(self, sight: Sight, workloads: Workloads, writer: Writer, allowance: Allowance) -> None:
        self._sight = sight
        self._workloads = workloads
        self._writer = writer
        self._allowance = allowance
        self.writes = 0
        self.retry: Callable[[], None] = lambda: None  # called when a write met another one: look again soon

    async def work(self) -> None:
        """One pass over all pools, Subnets and ReservedIPs; cheap where nothing is missing. Raises StoreError, Deposed."""
        by_cidr = {subnet.spec.subnet: subnet for subnet in self._workloads.subnets if not subnet.deleting}
        for pool in self._sight.pools:
            if (changes := of_pool(pool, by_cidr.get(pool.spec.subnet))) and self._allowance.take():
                self._count(await self._writer.patch(IP_POOL, pool, changes))
        for subnet in self._workloads.subnets:
            used = any(pool.labels.get(convert.OWNER_SUBNET) == label_value(subnet.name) for pool in self._sight.pools)
            if (changes := of_subnet(subnet, is_used=used)) and self._allowance.take():
                self._count(await self._writer.patch(SUBNET, subnet, changes))
        for reserved in self._sight.reserved:
            if (changes := of_reserved(reserved)) and self._allowance.take():
                self._count(await self._writer.patch(RESERVED_IP, reserved, changes))

    def _count(self, outcome: object) -> None:
        if isinstance(outcome, Stored):
            self.writes += 1
        else:
            log.info("derived_fields_not_written", outcome=str(outcome))
            if isinstance(outcome, Conflict):
                self.retry()
