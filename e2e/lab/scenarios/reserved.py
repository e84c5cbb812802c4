"""Addresses that no pod may be given, reserved or excluded: none is given out, and one node tells which of them are really in use, and by whom."""

from e2e.lab import checks
from e2e.lab.objects import Object
from e2e.lab.run import Run
from e2e.lab.scenarios.conflict import Foreign
from e2e.lab.scenarios.story import SETTLE_S, everything_released
from e2e.lab.scenarios.tight import deployment

TITLE = "Reserved and excluded addresses are audited"
NODES = 2
AUDITOR = "node-1"
FIRST_AGENT_SETTINGS = {"probe": {"audit": True, "auditIntervalS": 1.0, "auditPerS": 100.0}}
EXCLUDED = tuple(f"10.6.98.{n}" for n in range(10, 15))
RESERVED = tuple([*(f"10.6.98.{n}" for n in range(20, 30)), *(f"fd00:6::98:{n:x}" for n in range(0x20, 0x24))])
HELD = ("10.6.98.12", "10.6.98.21", "10.6.98.25", "fd00:6::98:21")
PODS = 60 - len(EXCLUDED) - 10
AUDITED_S = 30.0
POOL: Object = {
    "apiVersion": "spiderpool.spidernet.io/v2beta1",
    "kind": "SpiderIPPool",
    "metadata": {"name": "office"},
    "spec": {
        "subnet": "10.6.0.0/16",
        "gateway": "10.6.0.1",
        "ips": ["10.6.98.1-10.6.98.60"],
        "excludeIPs": [f"{EXCLUDED[0]}-{EXCLUDED[-1]}"],
    },
}
POOL_V6: Object = {
    **POOL,
    "metadata": {"name": "office-v6"},
    "spec": {"subnet": "fd00:6::/64", "gateway": "fd00:6::1", "ips": ["fd00:6::98:1-fd00:6::98:60"]},
}
RESERVATIONS: list[Object] = [
    {
        "apiVersion": "spiderpool.spidernet.io/v2beta1",
        "kind": "SpiderReservedIP",
        "metadata": {"name": name},
        "spec": {"ips": [text for text in RESERVED if (":" in text) == (name == "servers-v6")]},
    }
    for name in ("servers", "servers-v6")
]


async def run(run: Run) -> None:
    cluster, foreign = run.lab.cluster, Foreign(run)
    foreign.take(HELD)
    withheld = {*EXCLUDED, *RESERVED}
    async with run.step(f"{PODS} pods take all that is left of 60 addresses") as finding:
        await cluster.apply([*RESERVATIONS, POOL, POOL_V6, deployment("app", "office", PODS, pool_v6="office-v6")])
        await cluster.wait_until(lambda: len(cluster.pods()) >= PODS and cluster.settled(), SETTLE_S, cluster.describe)
        used = {address for pod in await checks.look(cluster) for address in pod.addresses}
        finding.problems += [f"{address} is withheld, and a pod has it" for address in sorted(used & withheld)]
    async with run.step(f"{AUDITOR} audits {len(withheld)} withheld addresses") as finding:
        await run.until(lambda: _shows(run, withheld, set(HELD)), AUDITED_S, "the whole table")
        table = await _table(run)
        finding.note = "\n" + "\n".join(
            f"    {ip:<16} {row['state']:<7} {row.get('mac', '')}" for ip, row in table.items()
        )
        finding.problems += [f"{ip} is in use, and no MAC is told" for ip in HELD if not table[ip].get("mac")]
    async with run.step(f"{HELD[1]} falls silent, a reservation is lifted") as finding:
        foreign.drop([HELD[1]])
        await run.lab.api.delete("SpiderReservedIP", "servers-v6")
        left = {address for address in withheld if ":" not in address}
        took = await run.until(lambda: _shows(run, left, set(HELD) & left - {HELD[1]}), AUDITED_S, "the new table")
        finding.note = f"shown after {took:.1f} s"
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


async def _table(run: Run) -> dict[str, Object]:
    """Address → row, those in use first, as the IPNode has it."""
    node = await run.lab.api.get("IPNode", AUDITOR)
    return {row["ip"]: row for row in (node.get("status") or {}).get("audit") or ()}


async def _shows(run: Run, addresses: set[str], in_use: set[str]) -> bool:
    table = await _table(run)
    return set(table) == addresses and {ip for ip, row in table.items() if row["state"] == "in-use"} == in_use
