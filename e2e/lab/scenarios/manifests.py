"""What a Spiderpool user has written works as it is: his configuration, networks, pools, Subnets and workloads, with the results that he expects.

`e2e/lab/spiderpool/` holds nothing but Spiderpool's documented fields, annotations and CNI keys.
"""

import ipaddress
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from e2e.lab import checks, labs
from e2e.lab.checks import LivePod
from e2e.lab.objects import Object, name_of
from e2e.lab.run import Run
from e2e.lab.scenarios.story import SETTLE_S, everything_released

TITLE = "Spiderpool's manifests, unmodified"
NODES = 3
MANIFESTS = Path(__file__).resolve().parents[1] / "spiderpool"
_CONF = {"spiderpoolConf": str(MANIFESTS / "conf.yml")}
AGENT_SETTINGS = LEADER_SETTINGS = _CONF

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
PREFIX = "ipam.spidernet.io"
STATUS_S = 10.0
BACKUP = "10.6.168.11,10.6.168.13,10.6.168.16-10.6.168.20"
# By workload and interface: the ranges that its addresses must be from, one of each family it asked for. "auto" is its own pool.
EXPECTED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "shop": {"eth0": ("auto4", "auto6")},
    "plain": {"eth0": ("auto4",)},
    "storage": {"eth0": (BACKUP,), "net1": ("10.7.10.1-10.7.10.20",)},
    "database": {"eth0": ("10.6.168.41-10.6.168.45", "fd00:6::168:41-fd00:6::168:49")},
    "report": {"eth0": (f"10.6.168.1-10.6.168.4,{BACKUP}",)},
}
WITHHELD = {
    "10.6.168.42",
    *(f"10.6.168.{last}" for last in range(50, 61)),
    "10.6.169.2",
}  # reserved, or excluded from the Subnet
OF_NODE = {
    "node-1": "10.6.168.31-10.6.168.32",
    "node-2": "10.6.168.33-10.6.168.34",
    "node-3": "10.6.168.35-10.6.168.36",
}


async def run(run: Run) -> None:
    lab, cluster = run.lab, run.lab.cluster
    things = labs.manifests(MANIFESTS)
    async with run.step("networks, Subnets and pools applied, what follows from them is filled in") as finding:
        await cluster.apply(thing for thing in things if thing["kind"] not in WORKLOADS)
        took = await run.until(lambda: _derived(run), STATUS_S, "derived fields of every pool and Subnet")
        finding.note = f"after {took:.1f} s"
        finding.problems += await _inherited(run)
    async with run.step("workloads applied, every pod Running") as finding:
        await cluster.apply(thing for thing in things if thing["kind"] in WORKLOADS)
        await cluster.wait_until(lambda: len(cluster.pods()) > 0 and cluster.settled(), SETTLE_S, cluster.describe)
        finding.note = f"{len(cluster.pods())} pods"
    pods = await run.verify("addresses are unique, recorded, reachable")
    async with run.step("each workload has the addresses that it asked for") as finding:
        own = await _own_pools(run)
        finding.problems += _from_their_pools(pods, own) + _on_their_nodes(pods) + _backup_is_used_last(pods)
        finding.problems += [f"{one} is withheld, and a pod has it" for one in _addresses(pods) & WITHHELD]
        finding.problems += await _second_interfaces(pods) + await _routes(pods)
    async with run.step("application pools are as documented") as finding:
        finding.problems += await _documented(run, {"shop": 3 + 1, "plain": 2 + 2})
        finding.note = ", ".join(sorted(own))
    async with run.step("status of pools and Subnets is as documented") as finding:
        took = await run.until(lambda: _told(run, pods), STATUS_S, "allocatedIPs and counts of every pool")
        finding.note = f"true of {len(pods)} pods {took:.1f} s later"
        finding.problems += await _subnets_told(run)

    async with run.step("shop grows to 6, its pool with it; database-1 is deleted and comes back") as finding:
        was = _of(pods, "database-1").addresses
        await lab.api.delete("Pod", "database-1", "default")
        await cluster.scale("Deployment", "default", "shop", 6)
        await cluster.wait_until(lambda: _replaced(run, pods) and cluster.settled(), SETTLE_S, cluster.describe)
        finding.problems += await _documented(run, {"shop": 6 + 1, "plain": 2 + 2})
        now = _of(await checks.look(cluster), "database-1").addresses
        if now != was:
            finding.problems.append(f"database-1 had {was} and now has {now}")
        finding.note = f"database-1 kept {' and '.join(was)}"
    pods = await run.verify("addresses are unique, recorded, reachable")
    async with run.step("still from their own pools") as finding:
        finding.problems += _from_their_pools(pods, await _own_pools(run))
    await everything_released(run)
    async with run.step("application pools went with their applications") as finding:
        try:
            finding.note = f"after {await run.until(lambda: _no_own_pool(run), STATUS_S, 'no application pool'):.1f} s"
        except TimeoutError as error:
            finding.problems += [str(error), *await _still_there(run)]


# What is there -------------------------------------------------------------------------------------------------------------------------------


async def _derived(run: Run) -> bool:
    """Every pool has its family, its finalizer and its labels; a pool of a Subnet's network, that Subnet as its owner."""
    pools, _ = await run.lab.api.list("SpiderIPPool")
    subnets, _ = await run.lab.api.list("SpiderSubnet")
    owners = {subnet["spec"]["subnet"]: name_of(subnet) for subnet in subnets}
    for thing in (*pools, *subnets):
        cidr, metadata = thing["spec"]["subnet"], thing["metadata"]
        labels = metadata.get("labels") or {}
        word = "ippool-cidr" if thing["kind"] == "SpiderIPPool" else "subnet-cidr"
        if (
            thing["spec"].get("ipVersion") != (6 if ":" in cidr else 4)
            or "spiderpool.spidernet.io" not in (metadata.get("finalizers") or ())
            or f"{PREFIX}/{word}" not in labels
            or (word == "ippool-cidr" and labels.get(f"{PREFIX}/owner-spider-subnet") != owners.get(cidr))
        ):
            return False
    return True


async def _inherited(run: Run) -> list[str]:
    """A pool by hand without gateway and routes has those of its Subnet; one with a gateway of its own keeps it."""
    pool = (await run.lab.api.get("SpiderIPPool", "tenant-v4-backup"))["spec"]
    route = [{"dst": "10.99.0.0/16", "gw": "10.6.0.1"}]
    if (pool.get("gateway"), pool.get("routes")) != ("10.6.0.1", route):
        return [f"tenant-v4-backup has gateway {pool.get('gateway')} and routes {pool.get('routes')}"]
    return []


async def _own_pools(run: Run) -> dict[str, Object]:
    pools, _ = await run.lab.api.list("SpiderIPPool")
    return {name_of(pool): pool for pool in pools if name_of(pool).startswith("auto")}


def _workload(pod: LivePod) -> str:
    return pod.key[1].partition("-")[0]


def _of(pods: Iterable[LivePod], name: str) -> LivePod:
    return next(pod for pod in pods if pod.key[1] == name)


def _addresses(pods: Iterable[LivePod]) -> set[str]:
    return {address for pod in pods for address in pod.addresses}


def _replaced(run: Run, before: Iterable[LivePod]) -> bool:
    """The StatefulSet's pod is another one by now, and the Deployment has all its pods."""
    uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in run.lab.cluster.pods()}
    shops = sum(name.startswith("shop-") for name in uids)
    was = _of(before, "database-1").uid
    return bool(uids.get("database-1", was) != was) and shops == 6


def _inside(address: str, spans: Iterable[str]) -> bool:
    value = ipaddress.ip_address(address)
    for span in spans:
        first, _, last = span.partition("-")
        low, high = ipaddress.ip_address(first), ipaddress.ip_address(last or first)
        if low.version == value.version and int(low) <= int(value) <= int(high):
            return True
    return False


# What must be true -----------------------------------------------------------------------------------------------------------------------------


def _from_their_pools(pods: Iterable[LivePod], own: Mapping[str, Object]) -> list[str]:
    problems: list[str] = []
    for pod in pods:
        for interface, wanted in EXPECTED.get(_workload(pod), {}).items():
            found = [text.partition("/")[0] for text in pod.interfaces.get(interface, ())]
            spans = [_spans(one, _workload(pod), own) for one in wanted]
            matched = [next((one for one in found if _inside(one, items)), "") for items in spans]
            if len(found) != len(wanted) or not all(matched):
                problems.append(f"{pod.key[1]} {interface} has {found}, not one of each of {spans}")
    return problems


def _spans(wanted: str, workload: str, own: Mapping[str, Object]) -> list[str]:
    if not wanted.startswith("auto"):
        return wanted.split(",")
    return next((pool["spec"]["ips"] for name, pool in own.items() if name.startswith(f"{wanted}-{workload}-")), [])


def _backup_is_used_last(pods: Iterable[LivePod]) -> list[str]:
    """Of the Namespace's default pools the first is used before the second, but for an address that a node holds ready for itself meanwhile."""
    first = [pod for pod in pods if _workload(pod) == "report" and _inside(pod.addresses[0], ["10.6.168.1-10.6.168.4"])]
    return [] if len(first) >= 3 else [f"{len(first)} of 5 pods of the Job have one of the 4 addresses of tenant-v4"]


def _on_their_nodes(pods: Iterable[LivePod]) -> list[str]:
    collectors = [pod for pod in pods if _workload(pod) == "collector"]
    problems = [
        f"{pod.key[1]} on {pod.node} has {pod.addresses}"
        for pod in collectors
        if not all(_inside(address, [OF_NODE[pod.node]]) for address in pod.addresses)
    ]
    return problems if len(collectors) == NODES else [*problems, f"{len(collectors)} collectors on {NODES} nodes"]


async def _second_interfaces(pods: list[LivePod]) -> list[str]:
    """Pods reach each other over the second network."""
    two = [pod for pod in pods if _workload(pod) == "storage"]
    pairs = [(one, other) for one in two for other in two if one.node != other.node]
    targets = [(one, other.interfaces["net1"][0].partition("/")[0]) for one, other in pairs]
    lost = [(one, target) for one, target in targets if not await checks.reaches(one.namespace, target)]
    return [f"{one.key[1]} cannot reach {target} over net1" for one, target in lost]


async def _routes(pods: list[LivePod]) -> list[str]:
    """The Subnet's gateway and route came to the pools by hand; the second interface sets no default route; the pod's own route is there."""
    problems: list[str] = []
    for pod in (pod for pod in pods if _workload(pod) == "storage"):
        routes = {(item["dst"], item["dev"]): item.get("gateway", "") for item in await checks.routes(pod.namespace)}
        defaults = {device: gateway for (destination, device), gateway in routes.items() if destination == "default"}
        if defaults != {"eth0": "10.6.0.1"}:
            problems.append(f"{pod.key[1]} has the default routes {defaults}")
        problems += [
            f"{pod.key[1]} has no route to {destination}: {sorted(routes)}"
            for destination in ("10.99.0.0/16", "10.88.0.0/16")
            if routes.get((destination, "eth0")) != "10.6.0.1"
        ]
    return problems


async def _documented(run: Run, sizes: Mapping[str, int]) -> list[str]:
    """Names, labels, size and affinity of application pools."""
    own, problems = await _own_pools(run), []
    for application, size in sizes.items():
        uid = (await run.lab.api.get("Deployment", application, "default"))["metadata"]["uid"]
        for version in (4, 6) if application == "shop" else (4,):
            name = f"auto{version}-{application}-eth0-{uid.rpartition('-')[2][:5]}"
            pool = own.get(name)
            if pool is None:
                problems.append(f"there is no pool {name}: {sorted(own)}")
                continue
            labels = pool["metadata"]["labels"]
            expected = {
                f"{PREFIX}/owner-spider-subnet": f"subnet-v{version}",
                f"{PREFIX}/owner-application-gv": "apps_v1",
                f"{PREFIX}/owner-application-kind": "Deployment",
                f"{PREFIX}/owner-application-namespace": "default",
                f"{PREFIX}/owner-application-name": application,
                f"{PREFIX}/owner-application-uid": uid,
                f"{PREFIX}/interface": "eth0",
                f"{PREFIX}/ip-version": f"IPv{version}",
            }
            problems += [
                f"{name}: {key} is {labels.get(key)}" for key, value in expected.items() if labels.get(key) != value
            ]
            if (has := _size(pool["spec"]["ips"])) != size:
                problems.append(f"{name} has {has} addresses, not {size}")
    return problems


def _size(spans: Iterable[str]) -> int:
    total = 0
    for span in spans:
        first, _, last = span.partition("-")
        total += int(ipaddress.ip_address(last or first)) - int(ipaddress.ip_address(first)) + 1
    return total


async def _told(run: Run, pods: Iterable[LivePod]) -> bool:
    """`allocatedIPs` names exactly the pods that have addresses of the pool, and the counts agree."""
    holders = {address: {"pod": "/".join(pod.key), "podUid": pod.uid} for pod in pods for address in pod.addresses}
    pools, _ = await run.lab.api.list("SpiderIPPool")
    told: dict[str, Object] = {}
    for pool in pools:
        status = pool.get("status") or {}
        records = json.loads(status.get("allocatedIPs") or "{}")
        spec = pool["spec"]
        total = _size(spec["ips"]) - _size(spec.get("excludeIPs") or ())
        if (status.get("allocatedIPCount"), status.get("totalIPCount")) != (len(records), total):
            return False
        told |= records
    return told == holders


async def _subnets_told(run: Run) -> list[str]:
    """`controlledIPPools` names every pool of the Subnet with its addresses, and the application of those made for one."""
    problems: list[str] = []
    subnets, _ = await run.lab.api.list("SpiderSubnet")
    pools, _ = await run.lab.api.list("SpiderIPPool")
    for subnet in subnets:
        record = json.loads(subnet["status"]["controlledIPPools"])
        mine = {name_of(pool): pool for pool in pools if pool["spec"]["subnet"] == subnet["spec"]["subnet"]}
        if set(record) != set(mine):
            problems.append(f"{name_of(subnet)} tells of {sorted(record)}, not of {sorted(mine)}")
            continue
        for name, pool in mine.items():
            application = f"apps_v1_Deployment_default_{name.split('-')[1]}" if name.startswith("auto") else None
            usable = _size(pool["spec"]["ips"]) - _size(pool["spec"].get("excludeIPs") or ())
            if record[name].get("application") != application or _size(record[name]["ips"]) != usable:
                problems.append(f"{name_of(subnet)} says of {name}: {record[name]}")
        if subnet["status"]["allocatedIPCount"] != sum(_size(entry["ips"]) for entry in record.values()):
            problems.append(f"{name_of(subnet)}: allocatedIPCount {subnet['status']['allocatedIPCount']}")
    return problems


async def _no_own_pool(run: Run) -> bool:
    return not await _own_pools(run)


async def _still_there(run: Run) -> list[str]:
    """What there is to know of application pools that did not go: whether anybody deleted them, and who has their addresses."""
    blocks, _ = await run.lab.api.list("IPBlock")
    leases = [f"{name_of(block)}: {block['spec'].get('leases')}" for block in blocks]
    endpoints, _ = await run.lab.api.list("SpiderEndpoint")
    leases += [f"SpiderEndpoint {name_of(one)}: {one['metadata']}, {one.get('status')}" for one in endpoints]
    told = [
        f"{name}: deleted {pool['metadata'].get('deletionTimestamp', 'never')}, {pool['spec'].get('ips')}, {pool.get('status')}"
        for name, pool in sorted((await _own_pools(run)).items())
    ]
    mailboxes, _ = await run.lab.api.list("IPNode")
    leases += [f"IPNode {name_of(one)}: {one.get('status')}" for one in mailboxes]
    return [*told, *leases]
