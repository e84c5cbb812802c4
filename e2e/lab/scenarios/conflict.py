"""A foreign host on the segment uses addresses of the pool: before pods come, while addresses lie ready for pods, and those of running pods.

No pod ever gets an address that the host holds; a running pod keeps its own and is defended; and when the host leaves, its addresses come back.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from e2e.lab import checks, fabric, frames, stock
from e2e.lab.checks import LivePod
from e2e.lab.ledger import timing
from e2e.lab.run import Finding, Run
from e2e.lab.scenarios.story import SETTLE_S, everything_released
from e2e.lab.scenarios.tight import deployment, pools

TITLE = "A foreign host uses addresses of the pool"
NODES = 3
AGENT_SETTINGS = {"probe": {"retestS": 0.5}, "lease": {"cooldownS": 2.0, "cooldownFloorS": 1.0}}
SIZE = 64
V4, V6 = "10.6.80.0", "fd00:6::80:0"
POOLS = ("contested", "contested-v6")
BEFORE = tuple(range(2, SIZE, 4))
PODS = 24
CLAIMED_LIVE = 2
HEARD_S, TOLD_S, LIFTED_S = 5.0, 10.0, 60.0
TARGET_MS, LATE_MS = 100.0, 1000.0


async def run(run: Run) -> None:
    cluster, foreign = run.lab.cluster, Foreign(run)
    async with run.step(f"{PODS} pods while a foreign host holds {len(BEFORE)} of {SIZE} addresses, twice") as finding:
        foreign.take([f"10.6.80.{n}" for n in BEFORE] + [f"fd00:6::80:{n:x}" for n in BEFORE])
        await cluster.apply([*pools("contested", V4, V6, SIZE), deployment("app", POOLS[0], PODS, pool_v6=POOLS[1])])
        await cluster.wait_until(lambda: len(cluster.pods()) >= PODS and cluster.settled(), SETTLE_S, cluster.describe)
        finding.problems += foreign.doubles(await checks.look(cluster))
        finding.note = f"{await stock.quarantined(run.lab.api, POOLS)} addresses quarantined"
    async with run.step("the host takes addresses that lie ready for pods") as finding:
        taken = await _ready_addresses(run, foreign)
        await _measure(run, foreign, taken, finding)
    usable = SIZE - len(BEFORE) - max(sum(":" in text for text in taken), sum("." in text for text in taken))
    async with run.step(f"as many pods as addresses are left: {usable}") as finding:
        await cluster.scale("Deployment", "default", "app", usable)
        await cluster.wait_until(lambda: len(cluster.pods()) >= usable, SETTLE_S, cluster.describe)
        await cluster.wait_settled(SETTLE_S)
        finding.problems += foreign.doubles(await checks.look(cluster))
    before = await run.verify("addresses are unique, recorded, reachable")
    await _claim_live(run, foreign, before)
    async with run.step("the host leaves: its addresses come back") as finding:
        left = foreign.leave()
        lifted_s = await run.until(lambda: _nothing_quarantined(run), LIFTED_S, "the end of every quarantine")
        await cluster.scale("Deployment", "default", "app", SIZE)
        await cluster.wait_until(lambda: len(cluster.pods()) >= SIZE, SETTLE_S, cluster.describe)
        await cluster.wait_settled(SETTLE_S)
        used = {address for pod in await checks.look(cluster) for address in pod.addresses} & left
        finding.note = f"quarantine over after {lifted_s:.1f} s, {len(used)} of {len(left)} now serve pods"
        if len(used) < len(left):
            finding.problems.append(f"never used again: {sorted(left - used)}")
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


async def _nothing_quarantined(run: Run) -> bool:
    return await stock.quarantined(run.lab.api, POOLS) == 0


async def _told_on_pods(run: Run) -> bool:
    return (await stock.events(run.lab.api))["AddressConflict", "Pod"] >= CLAIMED_LIVE


class Foreign:
    """The foreign host and what it holds."""

    def __init__(self, run: Run) -> None:
        self._namespace = run.lab.fabric.foreign_ns
        self.held: set[str] = set()

    def take(self, addresses: Iterable[str]) -> dict[str, float]:
        """Adds them to its interface and announces them; returns when each announcement left."""
        chosen = list(addresses)
        fabric.ip_batch(self._namespace, [f"addr add {_with_prefix(text)}" for text in chosen])
        self.held |= set(chosen)
        return frames.claim(self._namespace, "eth0", chosen)

    def drop(self, addresses: Iterable[str]) -> None:
        chosen = list(addresses)
        fabric.ip_batch(self._namespace, [f"addr del {_with_prefix(text)}" for text in chosen])
        self.held -= set(chosen)

    def leave(self) -> set[str]:
        left = set(self.held)
        self.drop(left)
        return left

    def doubles(self, pods: Iterable[LivePod]) -> list[str]:
        """I5 as the segment sees it."""
        return [
            f"{'/'.join(pod.key)} got {address}, which the foreign host holds"
            for pod in pods
            for address in pod.addresses
            if address in self.held
        ]


def _with_prefix(address: str) -> str:
    """nodad: it is a host that has long been there."""
    return f"{address}/64 dev eth0 nodad" if ":" in address else f"{address}/16 dev eth0"


async def _ready_addresses(run: Run, foreign: Foreign) -> list[str]:
    """One address of each family per node that lies in its lease and that no pod uses."""
    busy = {address for pod in await checks.look(run.lab.cluster) for address in pod.addresses} | foreign.held
    chosen = []
    for addresses in (await stock.leases(run.lab.api)).values():
        free = sorted(addresses - busy)
        chosen += [text for family in (":", ".") for text in [item for item in free if family in item][:1]]
    return chosen


async def _measure(run: Run, foreign: Foreign, addresses: list[str], finding: Finding) -> None:
    sent = foreign.take(addresses)
    logs = [agent.log for agent in run.lab.agents.values()]
    begun = time.monotonic()
    heard: dict[str, float] = {}
    while len(heard) < len(sent) and time.monotonic() - begun < HEARD_S:
        heard = quarantined_at(logs, sent)
        await asyncio.sleep(0.05)
    took = timing((heard[address] - sent[address]) * 1000 for address in heard)
    finding.note = (
        f"{took.count} addresses, wire to quarantine p50 {took.p50_ms:.1f} ms, max {took.max_ms:.1f} ms "
        f"(target {TARGET_MS:.0f})"
    )
    if not addresses:
        finding.problems.append("no address lies ready: the pool is too small for this scenario")
    finding.problems += [f"{address} was not quarantined" for address in sorted(sent.keys() - heard.keys())]
    if took.p50_ms > TARGET_MS or took.max_ms > LATE_MS:
        finding.problems.append("the quarantine came late")


def quarantined_at(logs: Iterable[Path], since: Mapping[str, float]) -> dict[str, float]:
    """Address → Unix seconds of its quarantine after the given moment, from the agents' logs (written after the journal's commit)."""
    found: dict[str, float] = {}
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            if "address_quarantined" in line:
                entry = json.loads(line)
                at = datetime.fromisoformat(entry["timestamp"]).timestamp()
                address = str(entry["address"])
                if at >= since.get(address, float("inf")):
                    found.setdefault(address, at)
    return found


async def _claim_live(run: Run, foreign: Foreign, pods: list[LivePod]) -> None:
    """The host takes addresses of running pods: the pods keep them, and users are told."""
    async with run.step(f"the host claims the addresses of {CLAIMED_LIVE} running pods") as finding:
        victims = pods[:CLAIMED_LIVE]
        addresses = [address for pod in victims for address in pod.addresses]
        foreign.take(addresses)
        await run.until(lambda: _told_on_pods(run), TOLD_S, "Events on the pods")
        told = await stock.events(run.lab.api)
        shown = {item["ip"]: item["mac"] for item in await stock.conflicts(run.lab.api)}
        foreign.drop(addresses)
        finding.problems += checks.kept(pods, await checks.look(run.lab.cluster))
        finding.problems += [f"{text} is in no IPNode's conflicts" for text in addresses if text not in shown]
        pool = await run.lab.api.get("SpiderIPPool", POOLS[0])
        status = pool.get("status") or {}
        words = ", ".join(f"{count} {reason} on {kind}s" for (reason, kind), count in sorted(told.items()))
        finding.note = f"Events: {words}; pool: {status.get('quarantinedIPCount')} quarantined, {_conditions(status)}"


def _conditions(status: Mapping[str, object]) -> str:
    items = status.get("conditions")
    listed = items if isinstance(items, list) else []
    return ", ".join(f"{item['type']}={item['status']}" for item in listed) or "no condition"
