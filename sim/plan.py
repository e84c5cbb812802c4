"""What one seed's world looks like: nodes, pools, times and how busy it is. Drawn once, independent of the faults."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from ipam.addresses import Address, Family
from ipam.slots import SlotId
from nodeagent.config import LeaseSettings, ProbeSettings

LONG_COOLDOWN_S = (
    300.0  # longer than the quiet time after the faults: what only waits for a cooldown to end shows as stuck
)


SET = "set"
IDENTITY = f"{SET}-"


@dataclass(frozen=True)
class PlannedPool:
    """`first` to `last` are its addresses; `excluded` of them are not to be issued, nor is the gateway."""

    name: str
    family: Family
    subnet: str
    gateway: str
    first: int
    last: int
    excluded: tuple[int, ...]
    default: bool

    @property
    def size(self) -> int:
        return self.last - self.first + 1 - len(self.excluded)

    def text(self, first: int, last: int) -> str:
        return f"{Address(self.family, first)}-{Address(self.family, last)}"

    @property
    def spec(self) -> dict[str, Any]:
        return {
            "subnet": self.subnet,
            "ips": [self.text(self.first, self.last)],
            "excludeIPs": [
                str(Address(self.family, v)) for v in self.excluded if str(Address(self.family, v)) != self.gateway
            ],
            "gateway": self.gateway,
            "default": self.default,
        }

    def issues(self, slot: SlotId) -> bool:
        gateway = Address.parse(self.gateway)
        return (
            slot.family is self.family
            and self.first <= slot.value <= self.last
            and slot.value not in self.excluded
            and slot.value != gateway.value
        )


@dataclass(frozen=True)
class Plan:
    nodes: tuple[str, ...]
    pools: tuple[PlannedPool, ...]
    lease: LeaseSettings
    pods: int  # about how many at a time
    churn_per_s: float
    hostile_s: float
    probe: ProbeSettings | None = None  # None: addresses are not verified
    identities: int = 0  # pods of a StatefulSet, which keep their addresses

    @classmethod
    def draw(cls, seed: int) -> Plan:
        source = random.Random(f"{seed}/plan")
        nodes = tuple(f"n{i + 1}" for i in range(source.randint(2, 6)))
        heartbeat = source.choice((1.0, 2.0, 4.0))
        lease = LeaseSettings(
            heartbeat_s=heartbeat,
            lease_s=heartbeat * source.choice((3, 5)),
            cooldown_s=source.choice((4.0, 6.0, 12.0)),
            cooldown_floor_s=3.0,
            wait_s=8.0,
            leak_confirm_s=source.choice((3.0, 8.0)),
        )
        main = source.choice((8, 24, 80))
        pools = [_pool(source, "main4", Family.V4, "10.6.0", main, default=True)]
        if source.random() < 0.4:
            pools.append(_pool(source, "main6", Family.V6, "fd00:6::", source.choice((main, 90)), default=True))
        if source.random() < 0.5:
            pools.append(_pool(source, "tiny4", Family.V4, "10.7.0", source.randint(2, 6), default=False))
        pair = random.Random(f"{seed}/pair")  # of its own: seeds without a pair stay as they are
        if pair.random() < 0.4:
            pools += _pair(pair)
            lease = msgspec.structs.replace(lease, cooldown_s=pair.choice((lease.cooldown_s, LONG_COOLDOWN_S)))
        return cls(
            nodes=nodes,
            pools=tuple(pools),
            lease=lease,
            pods=source.randint(3, 20),
            churn_per_s=source.choice((0.2, 0.5, 1.0)),
            hostile_s=source.choice((40.0, 70.0, 100.0)),
            probe=source.choice(
                (None, ProbeSettings(verify_interval_s=source.choice((4.0, 20.0, 300.0)), retest_s=2.0))
            ),
            identities=random.Random(f"{seed}/identities").choice((0, 0, 1, 4)),
        )

    def pool(self, name: str) -> PlannedPool | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def may_be_issued(self, slot: SlotId) -> bool:
        return any(pool.issues(slot) for pool in self.pools)

    # Pods: their name says what they want ("main-3", "tiny-1", "either-2")

    def kinds(self) -> tuple[str, ...]:
        found = ("main", "main", "tiny", "either") if self.pool("tiny4") else ("main",)
        return (*found, *("pair",) * len(found)) if self.pool("pair4") else found

    def annotations(self, pod: str) -> dict[str, str] | None:
        wanted = {
            "tiny": {"ipv4": ["tiny4"]},
            "either": {"ipv4": ["tiny4", "main4"]},
            "pair": {"ipv4": ["pair4"], "ipv6": ["pair6"]},
        }.get(pod.partition("-")[0])
        return {"ipam.spidernet.io/ippool": json.dumps(wanted)} if wanted else None

    def families_of(self, pod: str) -> set[Family]:
        dual = (pod.startswith(("main-", IDENTITY)) and self.pool("main6") is not None) or pod.startswith("pair-")
        return {Family.V4, Family.V6} if dual else {Family.V4}

    def pools_of(self, pod: str) -> list[list[PlannedPool]]:
        """Per family that the pod needs: the pools that may serve it."""
        names = {"tiny": [["tiny4"]], "either": [["tiny4", "main4"]], "pair": [["pair4"], ["pair6"]]}.get(
            pod.partition("-")[0], [["main4"], ["main6"]]
        )
        return [found for listed in names if (found := [pool for name in listed if (pool := self.pool(name))])]

    def room(self, pods: list[str], withheld: Callable[[PlannedPool], int]) -> str:
        """The kind of pod of which there are more than surely fit, or "". `withheld`: how many of a pool's addresses are reserved."""

        def lacks(name: str, wanted: int) -> bool:
            pool = self.pool(name)
            return pool is not None and wanted > pool.size - withheld(pool)

        kinds = [pod.partition("-")[0] for pod in pods]
        if lacks("tiny4", kinds.count("tiny") + kinds.count("either")):
            # an "either" pod may sit on a tiny address, so it counts for both
            return "either" if "either" in kinds else "tiny"
        pairs = kinds.count("pair")
        if lacks("pair4", pairs) or lacks("pair6", pairs):
            return "pair"
        absent = self.identities - kinds.count(SET)  # their pins keep their addresses
        others = len(kinds) - kinds.count("tiny") - pairs + absent
        if lacks("main4", others) or lacks("main6", others):
            # identities alone may be more than what is left by reservations: then some of them wait
            return next((kind for kind in ("main", "either") if kind in kinds), "")
        return ""


def _pair(source: random.Random) -> list[PlannedPool]:
    """One pool for each family, asked for together: one of them has few addresses, the other as few or more."""
    few = source.randint(3, 10)
    sizes = [few, source.choice((few, few + 1, few + 20))]
    source.shuffle(sizes)
    return [
        _pool(source, "pair4", Family.V4, "10.8.0", sizes[0], default=False),
        _pool(source, "pair6", Family.V6, "fd00:8::", sizes[1], default=False),
    ]


def _pool(source: random.Random, name: str, family: Family, prefix: str, size: int, *, default: bool) -> PlannedPool:
    """Its start is drawn so that pages are begun and ended in their midst."""
    excluded_count = source.choice((0, 0, 2)) if size >= 6 else 0
    start = source.randint(2, 120)
    base = Address.parse(f"{prefix}.0" if family is Family.V4 else prefix).value
    gateway_inside = size >= 6 and source.random() < 0.3
    span = size + excluded_count + (1 if gateway_inside else 0)
    first, last = base + start, base + start + span - 1
    excluded = tuple(sorted(source.sample(range(first, last), excluded_count)))
    gateway = base + 1
    if gateway_inside:
        gateway = source.choice([value for value in range(first, last) if value not in excluded])
    return PlannedPool(
        name=name,
        family=family,
        subnet=f"{prefix}.0/24" if family is Family.V4 else f"{prefix}/120",
        gateway=str(Address(family, gateway)),
        first=first,
        last=last,
        excluded=tuple(sorted({*excluded, *([gateway] if gateway_inside else [])})),
        default=default,
    )
