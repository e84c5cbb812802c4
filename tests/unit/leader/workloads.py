"""Workloads as a user would write them, for a leader and agents over one in-memory API."""

from __future__ import annotations

import json
from typing import Any

from adapters.kube.store import Stored
from crds.core import CRON_JOB, DAEMON_SET, DEPLOYMENT, JOB, POD, REPLICA_SET, STATEFUL_SET, Pod, PodSpec
from crds.meta import UNSET, Kind, ObjectMeta, OwnerReference
from crds.spiderpool import IP_POOL, SUBNET, SpiderIPPool, SpiderSubnet
from ipam.addresses import Family
from ipam.ranges import RangeSet
from tests.unit.leader.harness import until
from tests.unit.nodeagent.harness import Lab

KINDS: dict[str, Kind[Any]] = {
    kind.kind: kind for kind in (DEPLOYMENT, REPLICA_SET, STATEFUL_SET, DAEMON_SET, JOB, CRON_JOB)
}
ASKS = {"ipam.spidernet.io/subnet": json.dumps({"ipv4": ["s4"]})}


async def subnet(lab: Lab, name: str = "s4", cidr: str = "10.6.0.0/16", *ips: str, **spec: Any) -> SpiderSubnet:
    made: SpiderSubnet = await lab.create(
        SUBNET,
        metadata={"name": name},
        spec={"subnet": cidr, "ips": list(ips or ("10.6.1.1-10.6.1.100",)), **spec},
    )
    return made


async def workload(
    lab: Lab,
    kind: str = "Deployment",
    name: str = "web",
    replicas: int = 2,
    annotations: dict[str, str] | None = None,
    **changes: Any,
) -> Any:
    """A workload of any kind whose pods shall be `replicas` many."""
    template = {"metadata": {"annotations": ASKS if annotations is None else annotations}, "spec": {}}
    spec: dict[str, Any] = {"template": template}
    status: dict[str, Any] = {}
    match kind:
        case "DaemonSet":
            status = {"desiredNumberScheduled": replicas}
        case "Job":
            spec["completions"] = replicas
        case "CronJob":
            spec = {"jobTemplate": {"spec": {"template": template, "parallelism": replicas}}}
        case _:
            spec["replicas"] = replicas
    made = await lab.create(
        KINDS[kind], metadata={"name": name, "namespace": "default", **changes}, spec=spec, status=status
    )
    if status:  # the status of a create is dropped, as by a real API server
        await lab.store.patch(KINDS[kind], name, {"status": status}, namespace="default", subresource="status")
    return made


async def scale(lab: Lab, kind: str, name: str, replicas: int) -> None:
    changes: dict[str, Any] = {"spec": {"replicas": replicas}}
    subresource = ""
    if kind == "DaemonSet":
        changes, subresource = {"status": {"desiredNumberScheduled": replicas}}, "status"
    elif kind == "Job":
        changes = {"spec": {"completions": replicas}}
    elif kind == "CronJob":
        changes = {"spec": {"jobTemplate": {"spec": {"parallelism": replicas}}}}
    outcome = await lab.store.patch(KINDS[kind], name, changes, namespace="default", subresource=subresource)
    assert isinstance(outcome, Stored), outcome


async def pod_of(lab: Lab, owner: Any, name: str, node: str) -> Pod:
    """A pod of the workload, with the objects that a controller puts in between."""
    child = owner
    if owner.kind in ("Deployment", "CronJob"):
        between = REPLICA_SET if owner.kind == "Deployment" else JOB
        template = owner.spec.template if owner.kind == "Deployment" else owner.spec.job_template.spec.template
        child = await lab.store.get(between, f"{owner.name}-1", "default") or await lab.create(
            between,
            metadata={"name": f"{owner.name}-1", "namespace": "default", "ownerReferences": [_by(owner)]},
            spec={"template": {"metadata": {"annotations": template.metadata.annotations}, "spec": {}}},
        )
    template = owner.spec.job_template.spec.template if owner.kind == "CronJob" else owner.spec.template
    outcome = await lab.store.create(
        POD,
        Pod(
            metadata=ObjectMeta(
                name=name,
                namespace="default",
                annotations=template.metadata.annotations,
                owner_references=(OwnerReference(**{_SNAKE[k]: v for k, v in _by(child).items()}),),
            ),
            spec=PodSpec(node_name=node),
        ),
    )
    assert isinstance(outcome, Stored), outcome
    return outcome.object


_SNAKE = {"apiVersion": "api_version", "kind": "kind", "name": "name", "uid": "uid", "controller": "controller"}


def _by(owner: Any) -> dict[str, Any]:
    return {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }


async def pools(lab: Lab) -> dict[str, SpiderIPPool]:
    return {pool.name: pool for pool in (await lab.store.list(IP_POOL)).items}


def addresses(pool: SpiderIPPool) -> RangeSet:
    return RangeSet.parse(Family.V6 if ":" in pool.spec.subnet else Family.V4, pool.spec.ips)


async def record(lab: Lab, name: str = "s4") -> dict[str, Any]:
    stored = await lab.store.get(SUBNET, name)
    assert stored is not None
    if stored.status is UNSET or not stored.status.controlled_ip_pools:
        return {}
    found: dict[str, Any] = json.loads(stored.status.controlled_ip_pools)
    return found


async def sized(lab: Lab, size: int, *, of: int = 1) -> None:
    """Wait until there are `of` pools of `size` addresses each, and the record says the same."""

    async def there() -> bool:
        found = await pools(lab)
        return len(found) == of and all(addresses(pool).size == size for pool in found.values())

    await until(there)
    for name, pool in (await pools(lab)).items():
        owner = pool.labels["ipam.spidernet.io/owner-spider-subnet"]
        assert (await record(lab, owner))[name]["ips"] == list(pool.spec.ips)


async def counted(lab: Lab, count: int) -> None:
    """Wait until there are so many pools."""

    async def there() -> bool:
        return len(await pools(lab)) == count

    await until(there)
