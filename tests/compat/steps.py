"""What the cases do, in the words of the catalogue: pods, pools, namespaces, and what an interface gets."""

from __future__ import annotations

import itertools
import json
from typing import Any

from adapters.kube.store import Stored
from crds.core import NAMESPACE, NODE, POD, Pod
from crds.spiderpool import ENDPOINT, IPAllocation
from nodeagent.agent import Agent
from tests.unit.nodeagent.harness import Lab, http

V4, V6 = ("10.6.0.0/24", "10.6.0.10-10.6.0.250"), ("fd00:6::/64", "fd00:6::10-fd00:6::ff")
IPPOOL, IPPOOLS, ROUTES = (f"ipam.spidernet.io/{word}" for word in ("ippool", "ippools", "routes"))
NETWORKS = "k8s.v1.cni.cncf.io/networks"
_ids = itertools.count(1)


async def pools_of_both(lab: Lab, **spec: Any) -> None:
    """A default pool of each family."""
    await lab.pool("v4", *V4, gateway="10.6.0.1", default=True, **spec)
    await lab.pool("v6", *V6, gateway="fd00:6::1", default=True, **spec)


async def pod(lab: Lab, name: str, node: str = "n1", *, namespace: str = "default", **metadata: Any) -> Pod:
    """A pod bound to a node; one that had this name is gone."""
    await lab.store.delete(POD, name, namespace=namespace)
    made: Pod = await lab.create(
        POD, metadata={"name": name, "namespace": namespace, **metadata}, spec={"nodeName": node}
    )
    return made


def asks(*v4: str, v6: tuple[str, ...] = ()) -> dict[str, str]:
    """The `ippool` annotation."""
    return {IPPOOL: json.dumps({"ipv4": list(v4), "ipv6": list(v6)})}


def asks_each(*items: dict[str, Any]) -> dict[str, str]:
    """The `ippools` annotation."""
    return {IPPOOLS: json.dumps(list(items))}


async def namespace(lab: Lab, name: str, **metadata: dict[str, str]) -> None:
    await lab.create(NAMESPACE, metadata={"name": name, **metadata})


async def label_node(lab: Lab, name: str, **labels: str) -> None:
    assert isinstance(await lab.store.patch(NODE, name, {"metadata": {"labels": labels}}), Stored)


class Sandbox:
    """One sandbox of a pod. `answer` is the whole CNI result, or the error object."""

    def __init__(self, agent: Agent, of: Pod) -> None:
        self.agent = agent
        self.pod = of
        self.container = f"c{next(_ids)}"

    async def answer(self, ifname: str = "eth0", **conf: Any) -> dict[str, Any]:
        reply = await self.agent.serve(http("ADD", self.container, self.pod, ifname=ifname, conf=conf))
        found: dict[str, Any] = json.loads(reply.body)
        return found

    async def add(self, ifname: str = "eth0", **conf: Any) -> list[str]:
        """The addresses of a successful ADD, without prefix."""
        answer = await self.answer(ifname, **conf)
        assert "ips" in answer, answer
        return [ip["address"].split("/")[0] for ip in answer["ips"]]

    async def refused(self, ifname: str = "eth0", **conf: Any) -> dict[str, Any]:
        answer = await self.answer(ifname, **conf)
        assert "code" in answer, answer
        return answer

    async def remove(self, *ifnames: str) -> None:
        for ifname in ifnames or ("eth0",):
            reply = await self.agent.serve(http("DEL", self.container, self.pod, ifname=ifname))
            assert (reply.status, reply.body) == (200, b"")


def held(agent: Agent) -> set[str]:
    """Every address that the node's sandboxes have."""
    return {str(grant.slot.address) for item in agent.allocator.all() for grant in item.grants}


async def told(lab: Lab, name: str) -> tuple[IPAllocation, ...]:
    """What the SpiderEndpoint says."""
    stored = await lab.store.get(ENDPOINT, name, "default")
    assert stored is not None and stored.status
    return stored.status.current.ips
