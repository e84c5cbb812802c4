"""The configuration files of a node's programs: pure functions of names and addresses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

SERVICE_ADDRESS = "10.96.0.1"
KUBELET_PORT = 10250
PAUSE_IMAGE = "k8s.local/pause:1"
CNI_BIN, CNI_CONF = "/opt/cni/bin", "/etc/cni/net.d"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
MANAGEMENT, PARENT = "mg0", "ul0"


def containerd() -> str:
    """For containerd 1.6 and 1.7. Root of a restricted machine lacks CAP_SYS_RESOURCE, hence `restrict_oom_score_adj`."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs"]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true

  [{cri}.cni]
    bin_dir = "{CNI_BIN}"
    conf_dir = "{CNI_CONF}"

  [{cri}.containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [{cri}.containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def kubelet(ca_file: Path, cgroup_root: str) -> str:
    """A KubeletConfiguration (JSON is YAML). Images are imported by hand, so nothing may ever collect them."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(ca_file)},
            },
            "authorization": {"mode": "Webhook"},
            "port": KUBELET_PORT,
            "healthzPort": 0,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup_root,
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDomain": "cluster.local",
            "clusterDNS": ["10.96.0.10"],
            "resolvConf": "",
            "makeIPTablesUtilChains": False,
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "maxPods": 250,
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            # Ready in about 2 s instead of 10; 60 pods are not slowed by kubelet's own limit on its requests.
            "nodeStatusUpdateFrequency": "1s",
            "nodeStatusReportFrequency": "30s",
            "kubeAPIQPS": 100,
            "kubeAPIBurst": 200,
        },
        indent=1,
    )


def conflist(name: str, plugins: Sequence[Mapping[str, object]]) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": list(plugins)}, indent=1)


def macvlan(ipam: Mapping[str, object]) -> dict[str, object]:
    return {"type": "macvlan", "master": PARENT, "mode": "bridge", "ipam": dict(ipam)}


def host_local(first: str, last: str, *, subnet: str, gateway: str) -> dict[str, object]:
    """The floor: a plugin that only writes a file per address. Its range must belong to one node alone."""
    span = {"subnet": subnet, "rangeStart": first, "rangeEnd": last, "gateway": gateway}
    return {"type": "host-local", "ranges": [[span]], "routes": [{"dst": "0.0.0.0/0"}]}


def nephila(pools: Sequence[str]) -> dict[str, object]:
    return {"type": "nephila", "default_ipv4_ippool": list(pools)}


def egress(socket: Path) -> str:
    """How the API server reaches kubelets and pods: by CONNECT through a proxy that stands on their segment."""
    transport = {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": str(socket)}}}
    return json.dumps(
        {
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [{"name": "cluster", "connection": transport}],
        }
    )
