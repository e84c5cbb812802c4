"""Every pool and Subnet, asked of the API server for the reviews that need them: fresh for each, but shared by those that wait at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from adapters.kube.store import Store
from crds import convert
from crds.spiderpool import IP_POOL, SUBNET, SpiderSubnet
from ipam.admission import Neighbours
from ipam.errors import BadValue
from ipam.ranges import RangeSet


@dataclass(frozen=True, slots=True)
class Surroundings:
    subnets: tuple[SpiderSubnet, ...]
    neighbours: Neighbours

    def owner(self, cidr: str) -> SpiderSubnet | None:
        """The Subnet of exactly this network."""
        return next((one for one in self.subnets if one.spec.subnet == cidr and not one.deleting), None)


class Observer:
    """A copy kept by a watch would do for most, but a watch may lag or be cut, and a second `kubectl apply` must see the first. Edits are rare."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = asyncio.Lock()
        self._begun = 0
        self._last: tuple[int, Surroundings] | None = None

    async def look(self) -> Surroundings:
        """What there is, read after this call began. A crowd of callers costs two reads, not one each. Raises StoreError."""
        arrived = self._begun
        async with self._turn:
            if self._last is not None and self._last[0] > arrived:
                return self._last[1]
            self._begun += 1
            number = self._begun
            found = await self._read()
            self._last = number, found
            return found

    async def _read(self) -> Surroundings:
        pools, subnets = (await self._store.list(IP_POOL)).items, (await self._store.list(SUBNET)).items
        return Surroundings(
            tuple(subnets),
            Neighbours(
                convert.readable(pools, convert.pool).values,
                convert.readable(subnets, convert.subnet).values,
                {one.name: _given(one) for one in subnets},
            ),
        )


def _given(subnet: SpiderSubnet) -> Mapping[str, RangeSet]:
    try:
        family = convert.subnet(subnet).family
    except BadValue:
        return {}
    return {name: entry.ips for name, entry in convert.controlled_pools(subnet, family).items()}
