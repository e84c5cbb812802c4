"""What must be true of the cluster, judged from outside: from the pods' real interfaces, from real pings, and from the API objects.

Every check returns a list of problems in plain words; an empty list is a pass. No check trusts what the agents say of themselves, except `held`,
which asks whether they remember more than there is.
"""

import asyncio
import contextlib
import ipaddress
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from e2e.lab import netns
from e2e.lab.api import Api
from e2e.lab.cluster_model import Cluster
from e2e.lab.fabric import GATEWAY_V4, GATEWAY_V6
from e2e.lab.objects import Key, Object, key_of, name_of, pod_ips, uid_of

PROCESSES_AT_ONCE = 16
COMMAND_TIMEOUT_S = 15.0
PING_WAIT_S = 3
ENDPOINT_TIMEOUT_S = 15.0
HELD_TIMEOUT_S = 5.0
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class LivePod:
    """A pod as the kernel has it: addresses with prefix per interface, link-local ones left out."""

    key: Key
    uid: str
    node: str
    namespace: str
    interfaces: Mapping[str, tuple[str, ...]]

    @property
    def addresses(self) -> list[str]:
        return [address.partition("/")[0] for found in self.interfaces.values() for address in found]


@dataclass(frozen=True, slots=True)
class Pings:
    """How many were sent and which were not answered."""

    sent: int
    lost: tuple[str, ...]


async def look(cluster: Cluster) -> list[LivePod]:
    """Reads the interfaces of every running pod from the kernel."""
    limit = asyncio.Semaphore(PROCESSES_AT_ONCE)

    async def one(node: str, uid: str, key: Key, namespace: str) -> LivePod | None:
        async with limit:
            status, output = await _run("ip", "-n", namespace, "-j", "addr", "show")
        if status != 0:
            return None  # torn down since it was listed
        return LivePod(key, uid, node, namespace, _global_addresses(output))

    found = await asyncio.gather(
        *(
            one(kubelet.node, uid_of(worker.pod), key_of(worker.pod), worker.sandbox.netns.name)
            for kubelet, worker in cluster.running()
            if worker.sandbox is not None
        )
    )
    return [pod for pod in found if pod is not None]


def _global_addresses(output: bytes) -> dict[str, tuple[str, ...]]:
    return {
        link["ifname"]: tuple(
            f"{item['local']}/{item['prefixlen']}"
            for item in link["addr_info"]
            if item.get("scope") == "global" and not item.get("dadfailed")
        )
        for link in json.loads(output)
        if link.get("ifname", "lo") != "lo"
    }


def unique(pods: Iterable[LivePod]) -> list[str]:
    """I4: no address on two live sandboxes."""
    holders: dict[str, list[str]] = {}
    for pod in pods:
        for address in pod.addresses:
            holders.setdefault(address, []).append(f"{'/'.join(pod.key)} on {pod.node}")
    return [f"{address} is held by {' and '.join(names)}" for address, names in holders.items() if len(names) > 1]


def addressed(pods: Iterable[LivePod]) -> list[str]:
    """Every interface of every pod has an address."""
    bare = [pod for pod in pods if not pod.interfaces or not all(pod.interfaces.values())]
    return [
        f"{'/'.join(pod.key)} on {pod.node} has an interface without address: {dict(pod.interfaces)}" for pod in bare
    ]


def match_status(pods: Iterable[LivePod], objects: Iterable[Object]) -> list[str]:
    """The first interface's addresses are those in the pod's status."""
    told = {uid_of(thing): pod_ips(thing) for thing in objects}
    problems = []
    for pod in pods:
        real = [address.partition("/")[0] for address in next(iter(pod.interfaces.values()), ())]
        if _plain(told.get(pod.uid, [])) != _plain(real):
            problems.append(f"{'/'.join(pod.key)}: status says {told.get(pod.uid)}, the interface has {real}")
    return problems


async def match_endpoints(api: Api, pods: Sequence[LivePod]) -> list[str]:
    """Each pod has a SpiderEndpoint with its UID, node and addresses; they are written after the ADD, hence up to 15 s of patience."""
    problems: list[str] = []
    for _ in range(int(ENDPOINT_TIMEOUT_S / 0.25)):
        items, _version = await api.list("SpiderEndpoint")
        endpoints = {key_of(item): item for item in items}
        problems = [problem for pod in pods for problem in endpoint_problems(pod, endpoints.get(pod.key))]
        wanted = {pod.key for pod in pods}
        problems += [f"SpiderEndpoint {'/'.join(key)} has no pod" for key in endpoints if key not in wanted]
        if not problems:
            return []
        await asyncio.sleep(0.25)
    return problems


def endpoint_problems(pod: LivePod, endpoint: Object | None) -> list[str]:
    """What the pod's SpiderEndpoint says otherwise than its interfaces."""
    label = "/".join(pod.key)
    if endpoint is None:
        return [f"{label} has no SpiderEndpoint"]
    current = (endpoint.get("status") or {}).get("current") or {}
    if current.get("uid") != pod.uid or current.get("node") != pod.node:
        return [
            f"{label}: SpiderEndpoint says uid {current.get('uid')} on {current.get('node')}, not {pod.uid} on {pod.node}"
        ]
    said = {
        item["interface"]: {text for text in (item.get("ipv4"), item.get("ipv6")) if text}
        for item in current.get("ips") or ()
    }
    real = {name: set(found) for name, found in pod.interfaces.items()}
    return [] if said == real else [f"{label}: SpiderEndpoint says {said}, the interfaces have {real}"]


async def in_pools(api: Api, pods: Iterable[LivePod]) -> list[str]:
    """Each address lies in the usable part of a pool, and is not reserved."""
    pools, _ = await api.list("SpiderIPPool")
    reserved_items, _ = await api.list("SpiderReservedIP")
    usable = [(name_of(pool), *_spans(pool["spec"])) for pool in pools]
    withheld = [span for item in reserved_items for span in _parse_spans(item["spec"].get("ips") or ())]
    problems = []
    for pod in pods:
        for text in pod.addresses:
            address = ipaddress.ip_address(text)
            homes = [name for name, ips, out in usable if _inside(address, ips) and not _inside(address, out)]
            if not homes:
                problems.append(f"{'/'.join(pod.key)}: {text} belongs to no pool")
            if _inside(address, withheld):
                problems.append(f"{'/'.join(pod.key)}: {text} is reserved")
    return problems


async def ping(pods: Sequence[LivePod], limit: int) -> Pings:
    """From each of up to `limit` pods (spread over the list): the gateway and a pod of another node, in each family the pod has."""
    chosen = pods[:: max(1, -(-len(pods) // limit))] if pods else []
    jobs: list[tuple[str, str, str]] = []
    for pod in chosen:
        for address in map(ipaddress.ip_address, pod.addresses):
            jobs.append((pod.namespace, "/".join(pod.key), GATEWAY_V4 if address.version == 4 else GATEWAY_V6))
            peer = _peer_address(pods, pod, address.version)
            if peer is not None:
                jobs.append((pod.namespace, "/".join(pod.key), peer))
    slots = asyncio.Semaphore(PROCESSES_AT_ONCE)

    async def one(namespace: str, label: str, target: str) -> str:
        async with slots:
            return "" if await reaches(namespace, target) else f"{label} cannot reach {target}"

    results = await asyncio.gather(*(one(*job) for job in jobs))
    return Pings(len(jobs), tuple(result for result in results if result))


async def reaches(namespace: str, target: str) -> bool:
    """Whether two pings from a pod's namespace are answered."""
    pings = ("ping", "-n", "-q", "-c", "2", "-i", "0.2", "-W", str(PING_WAIT_S), target)
    status, _ = await _run("nsenter", f"--net={netns.path_of(namespace)}", *pings)
    return status == 0


async def routes(namespace: str) -> list[Object]:
    """The IPv4 routes of a pod, as `ip` tells them."""
    status, output = await _run("ip", "-n", namespace, "-j", "-4", "route", "show")
    found: list[Object] = json.loads(output) if status == 0 else []
    return found


def _others(pods: Sequence[LivePod], pod: LivePod) -> list[LivePod]:
    """The list from just after `pod` on, so that targets differ from pod to pod."""
    at = pods.index(pod)
    return [*pods[at + 1 :], *pods[:at]]


def _peer_address(pods: Sequence[LivePod], pod: LivePod, version: int) -> str | None:
    for peer in _others(pods, pod):
        if peer.node != pod.node:
            for address in peer.addresses:
                if ipaddress.ip_address(address).version == version:
                    return address
    return None


def kept(before: Iterable[LivePod], after: Iterable[LivePod]) -> list[str]:
    """A pod that lived through has the very addresses it had."""
    now = {pod.uid: pod for pod in after}
    return [
        f"{'/'.join(pod.key)} had {pod.addresses} and now has {now[pod.uid].addresses}"
        for pod in before
        if pod.uid in now and now[pod.uid].addresses != pod.addresses
    ]


async def held(journals: Mapping[str, Path], pods: Sequence[LivePod]) -> list[str]:
    """I7: the agents' journals hold exactly the live pods' addresses: nothing more is kept, nothing is forgotten.

    A DEL that was spooled while an agent was away is replayed within a second of its return, hence up to 5 s of patience.
    """
    problems: list[str] = []
    for _ in range(int(HELD_TIMEOUT_S / 0.25)):
        problems = _held_now(journals, pods)
        if not problems:
            break
        await asyncio.sleep(0.25)
    return problems


async def nothing_remains(api: Api, timeout_s: float) -> list[str]:
    """I7, when no workload is left: no SpiderEndpoint and no pin outlives its owner for longer than `timeout_s`."""
    problems: list[str] = []
    for _ in range(int(timeout_s / 0.25)):
        endpoints, _version = await api.list("SpiderEndpoint")
        blocks, _version = await api.list("IPBlock")
        problems = [f"SpiderEndpoint {'/'.join(key_of(item))} has no pod" for item in endpoints]
        problems += [
            f"{name_of(block)} still has slot {pin['slot']} pinned to {pin['owner']['namespace']}/{pin['owner']['name']}"
            for block in blocks
            for pin in block["spec"].get("pins") or ()
        ]
        if not problems:
            break
        await asyncio.sleep(0.25)
    return problems


def _held_now(journals: Mapping[str, Path], pods: Iterable[LivePod]) -> list[str]:
    live = Counter((pod.node, address) for pod in pods for address in _plain(pod.addresses))
    known = Counter((node, address) for node, path in journals.items() for address in journal_addresses(path))
    more = [f"the journal of {node} still holds {address}" for node, address in (known - live)]
    less = [f"the journal of {node} does not know {address}, which a pod uses" for node, address in (live - known)]
    return more + less


def journal_addresses(path: Path) -> list[str]:
    """The allocated addresses in an agent's journal, which its owner locks: read from a copy taken while nothing was written.

    Raises TimeoutError if it never stood still, sqlite3.Error if it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="nephila-lab-") as folder:
        copy = _still_copy(path, Path(folder))
        with contextlib.closing(sqlite3.connect(copy, timeout=5)) as database:
            rows = database.execute("SELECT family, value FROM attachments").fetchall()
    return [
        str(ipaddress.IPv4Address(int(value)) if family == 4 else ipaddress.IPv6Address(int(value)))
        for family, value in rows
    ]


def _still_copy(path: Path, folder: Path) -> Path:
    """Database and write-ahead log belong together, so both must be the same before and after the copying."""
    files = [path, path.with_name(f"{path.name}-wal")]
    for _ in range(50):
        before = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()]
        for file in files:
            if file.exists():
                shutil.copyfile(file, folder / file.name)
        if before == [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()]:
            return folder / path.name
    raise TimeoutError(f"{path} never stood still")


def _plain(addresses: Iterable[str]) -> list[str]:
    return sorted(str(ipaddress.ip_address(address)) for address in addresses)


def _spans(spec: Object) -> tuple[list[tuple[Address, Address]], list[tuple[Address, Address]]]:
    return _parse_spans(spec.get("ips") or ()), _parse_spans(spec.get("excludeIPs") or ())


def _parse_spans(texts: Iterable[str]) -> list[tuple[Address, Address]]:
    spans: list[tuple[Address, Address]] = []
    for text in texts:
        first, _, last = text.partition("-")
        spans.append((ipaddress.ip_address(first), ipaddress.ip_address(last or first)))
    return spans


def _inside(address: Address, spans: Iterable[tuple[Address, Address]]) -> bool:
    return any(int(first) <= int(address) <= int(last) for first, last in spans if first.version == address.version)


async def _run(*command: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        return -9, b""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, output
