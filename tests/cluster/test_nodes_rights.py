"""What the chart's processes can do on a real node, read from the kernel: capabilities, seccomp, file system, socket."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from e2e.cluster.binaries import Binaries
from e2e.cluster.nodes import settings
from e2e.cluster.nodes.chart import AGENT_PODS, IMAGE, LEADER_PODS, ChartInstallation
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.node import Node

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(not IMAGE.exists(), reason="build/nephila.tar is not there: run tools/image build"),
]

# Bits of linux/capability.h.
CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13, "BPF": 39}
SOCKET = "/run/nephila/nephila.sock"
# Says "answered" if the agent serves this user, else what the kernel or the agent did.
ASK = f"""
import socket
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(5)
try:
    peer.connect("{SOCKET}")
    peer.sendall(b"POST /cni HTTP/1.1\\r\\nHost: nephila\\r\\nNephila-Shim: 1\\r\\nCni-Command: STATUS\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}")
    print("answered" if peer.recv(100) else "closed")
except OSError as error:
    print(type(error).__name__)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nephila(binaries: Binaries) -> AsyncIterator[ChartInstallation]:
    cluster = RealCluster(1, binaries)
    async with cluster:
        installation = ChartInstallation(cluster)
        await installation.install()
        yield installation
    assert cluster.leftovers() == []


@pytest.fixture
def node(nephila: ChartInstallation) -> Node:
    return nephila.cluster.nodes["node-1"]


async def process_of(nephila: ChartInstallation, pods: str) -> int:
    """The first process of the only container of the only such pod, as the node counts."""
    [pod] = (await nephila.cluster.api.get(pods))["items"]
    container = str(pod["status"]["containerStatuses"][0]["containerID"]).rpartition("/")[2]
    node = nephila.cluster.nodes["node-1"]
    code, said = await node.run("ctr", "-a", settings.CONTAINERD_SOCKET, "-n", "k8s.io", "tasks", "ls")
    assert code == 0, said
    return next(int(line.split()[1]) for line in said.splitlines() if line.startswith(container))


async def facts(node: Node, pid: int) -> Mapping[str, str]:
    """/proc/PID/status."""
    code, said = await node.run("cat", f"/proc/{pid}/status")
    assert code == 0, said
    return {name: value.strip() for name, _, value in (line.partition(":") for line in said.splitlines())}


def mask(*names: str) -> int:
    return sum(1 << CAPABILITIES[name] for name in names)


async def test_the_agent_has_the_listed_capabilities_and_no_other(nephila: ChartInstallation, node: Node) -> None:
    found = await facts(node, await process_of(nephila, AGENT_PODS))
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(found[kind], 16) == mask("NET_ADMIN", "NET_RAW", "BPF"), kind
    assert (found["Uid"].split()[0], found["NoNewPrivs"], found["Seccomp"]) == ("0", "1", "2")
    box = await nephila.cluster.api.get("/apis/nephila.io/v1alpha1/ipnodes/node-1")
    assert box["status"]["probe"]["mode"] == "ebpf", box["status"]["probe"]  # and they suffice


async def test_the_leader_has_none_and_is_not_root(nephila: ChartInstallation, node: Node) -> None:
    found = await facts(node, await process_of(nephila, LEADER_PODS))
    for kind in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
        assert int(found[kind], 16) == 0, kind
    assert (found["Uid"].split()[0], found["NoNewPrivs"], found["Seccomp"]) == ("65532", "1", "2")


@pytest.mark.parametrize(
    ("pods", "writable"),
    [
        (AGENT_PODS, {"/run/nephila", "/var/lib/nephila", "/tmp", "/sys/fs/bpf"}),
        (LEADER_PODS, set()),
    ],
    ids=["agent", "leader"],
)
async def test_only_the_listed_folders_can_be_written(
    nephila: ChartInstallation, node: Node, pods: str, writable: set[str]
) -> None:
    code, said = await node.run("cat", f"/proc/{await process_of(nephila, pods)}/mounts")
    assert code == 0, said
    mounts = {line.split()[1]: line.split()[3].split(",") for line in said.splitlines()}
    assert "ro" in mounts["/"]
    # The container's own, made by kubelet and runc: the last is the empty folder over the hierarchies of cgroup v1, which are read-only.
    kernel = {"/proc", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/sys/fs/cgroup"}
    given = {
        place
        for place, options in mounts.items()
        if "rw" in options and place not in kernel and not place.startswith(("/proc/", "/dev/"))
    }
    assert given == writable


async def test_the_socket_is_roots_alone_and_the_agent_asks_the_kernel_who_calls(node: Node) -> None:
    ask = (sys.executable, "-c", ASK)
    someone = ("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--")
    code, mode = await node.run("stat", "-c", "%a %U %G", SOCKET)
    assert (code, mode.strip()) == (0, "600 root root")
    assert (await node.run(*ask))[1].strip() == "answered"
    assert (await node.run(*someone, *ask))[1].strip() == "PermissionError"
    # Even if somebody opened it to all, only root is served.
    await node.run("chmod", "666", SOCKET)
    try:
        assert (await node.run(*someone, *ask))[1].strip() in ("closed", "ConnectionResetError", "BrokenPipeError")
        assert (await node.run(*ask))[1].strip() == "answered"
    finally:
        await node.run("chmod", "600", SOCKET)


async def test_the_agents_token_is_of_its_own_account_and_names_its_node(
    nephila: ChartInstallation, node: Node
) -> None:
    """Read where the agent reads it, and used: another node's mailbox is refused to exactly this token."""
    pid = await process_of(nephila, AGENT_PODS)
    code, token = await node.run("cat", f"/proc/{pid}/root/run/secrets/kubernetes.io/serviceaccount/token")
    assert code == 0, token
    client = nephila.cluster.plane.client(token.strip())
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    who = (await client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)).body["status"]["userInfo"]
    assert who["username"] == "system:serviceaccount:nephila-system:nephila-agent"
    assert who["extra"]["authentication.kubernetes.io/node-name"] == ["node-1"]
    box = {"apiVersion": "nephila.io/v1alpha1", "kind": "IPNode", "metadata": {"name": "node-9"}}
    answer = await client.post("/apis/nephila.io/v1alpha1/ipnodes?dryRun=All", box)
    assert (answer.status, "its own node only" in answer.message) == (403, True), json.dumps(answer.body)
