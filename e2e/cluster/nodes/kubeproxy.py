"""kube-proxy where the control plane meets the segment: the API server's calls to a Service reach the pods behind it, as on a control-plane host.

The API server dials a Service's ClusterIP in the gateway's namespace (its egress selector, `relay.py`); kube-proxy's nftables rules there turn that
into the address of an endpoint. Nodes have no kube-proxy: they call no Service but the API server's own, which `relay.py` serves.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Self

from e2e.cluster.binaries import Binaries
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.program import Program
from e2e.cluster.workdir import encode_file, write_kubeconfig, write_private
from e2e.lab import netns
from e2e.lab.fabric import GATEWAY_V4

USER = "system:kube-proxy"  # what Kubernetes' own role binding names
# There is no Node object of its name: it waits 30 s for one, then goes on with its bind address.
READY_TIMEOUT_S = 60.0


class KubeProxy:
    """`async with KubeProxy(cluster, binaries) as proxy:` - returns at once; `until_targets` waits for its rules."""

    def __init__(self, cluster: RealCluster, binaries: Binaries) -> None:
        self._cluster = cluster
        self._binaries = binaries
        self._program: Program | None = None

    async def __aenter__(self) -> Self:
        folder = self._cluster.folder
        config = write_private(folder / "kube-proxy.json", configuration(self._kubeconfig()))
        enter = ["nsenter", f"--net={netns.path_of(self._cluster.net.gateway_ns)}"]
        command = [*enter, str(self._binaries.path("kube-proxy")), f"--config={config}"]
        self._program = Program("kube-proxy", command, folder / "kube-proxy.log")
        self._program.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._program is not None:
            await self._program.stop()

    @property
    def program(self) -> Program:
        assert self._program is not None, "not started"
        return self._program

    async def until_targets(self, service: str, wanted: set[str]) -> float:
        """Until the rules send `NAMESPACE/NAME` to exactly these "address:port"; the seconds waited. Raises ClusterFailed."""

        async def missing() -> str:
            found = targets(await self._rules(), service)
            return "" if found == wanted else f"{service} goes to {sorted(found)}, not to {sorted(wanted)}"

        return await self.program.wait_until(missing, timeout_s=READY_TIMEOUT_S)

    async def _rules(self) -> str:
        enter = ["nsenter", f"--net={netns.path_of(self._cluster.net.gateway_ns)}"]
        process = await asyncio.create_subprocess_exec(
            *enter, "nft", "list", "ruleset", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(10.0):
            said, _ = await process.communicate()
        return said.decode(errors="replace")

    def _kubeconfig(self) -> Path:
        plane = self._cluster.plane
        pair = plane.layout.authority.issue_client("kube-proxy", user=USER, group=USER)
        user = {"client-certificate-data": encode_file(pair.certificate), "client-key-data": encode_file(pair.key)}
        path = plane.layout.kubeconfig("kube-proxy")
        return write_kubeconfig(path, server=plane.url, ca_file=plane.ca_file, user=user)


def configuration(kubeconfig: Path) -> str:
    """A KubeProxyConfiguration (JSON is YAML). The limits of conntrack are the machine's, so none is set."""
    unlimited = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": "control-plane",
            "bindAddress": GATEWAY_V4,
            "metricsBindAddress": "127.0.0.1:10249",
            "healthzBindAddress": "127.0.0.1:10256",
            "conntrack": unlimited,
        },
        indent=1,
    )


def targets(rules: str, service: str) -> set[str]:
    """Where kube-proxy's rules (`nft list ruleset`) send the IPv4 TCP connections of `NAMESPACE/NAME`: "address:port", a set for all its ports."""
    chains = re.findall(rf"chain service-\w+-{re.escape(service)}/tcp/[^ ]* {{(.*?)\n\t}}", rules, re.DOTALL)
    # One endpoint: `dnat to 10.6.250.1:9809`; several: `dnat to numgen random mod 2 map { 0 : 10.6.250.1 . 9809, …`.
    sent = [line for line in "".join(chains).splitlines() if "dnat" in line]
    return {
        f"{address}:{port}" for address, port in re.findall(r"([0-9.]+\.[0-9]+)(?::| \. )([0-9]+)", "\n".join(sent))
    }
