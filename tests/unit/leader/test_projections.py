"""Pool status under the settings that ship: at most two seconds late while little happens, and no more writes than allowed while much does."""

from __future__ import annotations

import asyncio
import json
import time

from adapters.kube.store import Stored
from crds.meta import UNSET
from crds.spiderpool import ENDPOINT, IP_POOL
from leader.config import StatusSettings, SweepSettings
from tests.unit.leader.harness import leader
from tests.unit.nodeagent.harness import Lab

SHIPPED = StatusSettings()
LATE_S = 2.0
POOLS, PODS_EACH = 60, 30


async def record(lab: Lab, pool: str, number: int, last: int) -> str:
    """As an agent writes it after an ADD."""
    name, address = f"{pool}-{number}", f"10.{last}.0.{10 + number}"
    current = {
        "uid": f"u-{name}",
        "node": "n1",
        "ips": [{"interface": "eth0", "ipv4": f"{address}/16", "ipv4Pool": pool}],
    }
    status = {"current": current, "ownerControllerType": "Pod", "ownerControllerName": name}
    await lab.create(ENDPOINT, metadata={"name": name, "namespace": "default"}, status=status)
    return address


async def told(lab: Lab, pool: str) -> dict[str, dict[str, str]]:
    """`allocatedIPs`; its count must agree at any time."""
    stored = await lab.store.get(IP_POOL, pool)
    assert stored is not None
    if stored.status is UNSET:
        return {}
    found: dict[str, dict[str, str]] = json.loads(stored.status.allocated_ips or "{}")
    assert stored.status.allocated_ip_count == len(found)
    return found


async def test_a_single_change_shows_within_two_seconds(lab: Lab) -> None:
    await lab.pool("p", "10.1.0.0/16", "10.1.0.10-10.1.0.99")
    async with leader(lab, status=SHIPPED, sweep=SweepSettings()):
        for number in range(5):
            await asyncio.sleep(0.35 * number)  # at any phase of the leader's rhythm
            address = await record(lab, "p", number, 1)
            written = time.monotonic()
            while address not in await told(lab, "p"):
                assert time.monotonic() - written < LATE_S, "the status is late"
                await asyncio.sleep(0.01)
            assert (await told(lab, "p"))[address] == {"pod": f"default/p-{number}", "podUid": f"u-p-{number}"}
        removed = time.monotonic()
        await lab.store.delete(ENDPOINT, "p-0", namespace="default")
        while "10.1.0.10" in await told(lab, "p"):
            assert time.monotonic() - removed < LATE_S, "the status is late"
            await asyncio.sleep(0.01)


async def test_a_storm_of_changes_is_written_at_the_allowed_rate_and_ends_true(lab: Lab) -> None:
    """1,800 pods in sixty pools within about three seconds: one write for each would be ninety times as many as a pool may have."""
    for number in range(POOLS):
        await lab.pool(f"p{number}", f"10.{number}.0.0/16", f"10.{number}.0.10-10.{number}.0.99")
    async with leader(lab, status=SHIPPED, sweep=SweepSettings()) as one:
        reign = one.reign
        assert reign is not None
        versions = {f"p{number}": set[str]() for number in range(POOLS)}
        began = time.monotonic()
        for pod in range(PODS_EACH):
            await asyncio.gather(*(record(lab, f"p{number}", pod, number) for number in range(POOLS)))
            for name in versions:
                versions[name].add(json.dumps(await told(lab, name)))
            await asyncio.sleep(0.1)
        deadline = time.monotonic() + 30.0
        while not all([len(await told(lab, name)) == PODS_EACH for name in versions]):
            assert time.monotonic() < deadline, "the status never became true"
            await asyncio.sleep(0.1)
        took = time.monotonic() - began
        writes = reign.pools.writes + reign.derived.writes  # they share one allowance
    burst = 2 * SHIPPED.writes_per_s
    assert writes <= SHIPPED.writes_per_s * took + burst + POOLS  # the first pass writes while nothing was counted yet
    assert max(map(len, versions.values())) <= took / SHIPPED.gap_s + 2
    assert writes < POOLS * PODS_EACH / 5
    assert isinstance(await lab.store.patch(IP_POOL, "p0", {"metadata": {"labels": {"a": "b"}}}), Stored)
