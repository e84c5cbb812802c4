"""Command lines of the control plane's programs: pure functions of where its files and ports are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.binaries import Binaries
from e2e.cluster.certificates import Authority, KeyPair

ISSUER = "https://kubernetes.default.svc.cluster.local"
SERVICE_RANGE = "10.96.0.0/16"
NODE_MONITOR_GRACE_S = 20

# What pods, their owners, identities and clean-up need; volumes, autoscaling, certificates and clouds are left out.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
)


@dataclass(frozen=True, slots=True)
class Ports:
    """All on 127.0.0.1, below the ephemeral range so that no outgoing connection takes one during a restart."""

    etcd: int
    etcd_peer: int
    apiserver: int
    controller_manager: int
    scheduler: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything the command lines refer to; made before any program starts."""

    folder: Path
    binaries: Binaries
    ports: Ports
    authority: Authority
    serving: KeyPair
    kubelet_client: KeyPair
    signing: KeyPair
    tokens: Path

    def kubeconfig(self, user: str) -> Path:
        return self.folder / f"{user}.kubeconfig"

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.etcd}"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports.apiserver}"


def etcd(layout: Layout) -> list[str]:
    peer = f"http://127.0.0.1:{layout.ports.etcd_peer}"
    return [
        str(layout.binaries.path("etcd")),
        "--name=nephila",
        f"--data-dir={layout.folder / 'etcd'}",
        f"--listen-client-urls={layout.etcd_url}",
        f"--advertise-client-urls={layout.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=nephila={peer}",
        "--watch-progress-notify-interval=5s",
        "--log-level=warn",
    ]


def apiserver(layout: Layout) -> list[str]:
    return [
        str(layout.binaries.path("kube-apiserver")),
        f"--etcd-servers={layout.etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.ports.apiserver}",
        # Never used: with reconciler "none" no endpoint is published. Loopback is refused here, hence a TEST-NET one.
        "--advertise-address=192.0.2.1",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={layout.serving.certificate}",
        f"--tls-private-key-file={layout.serving.key}",
        f"--client-ca-file={layout.authority.certificate}",
        # No aggregated API is used; without these the controller manager's own authentication logs errors.
        f"--requestheader-client-ca-file={layout.authority.certificate}",
        "--requestheader-allowed-names=nephila-front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--token-auth-file={layout.tokens}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={layout.signing.certificate}",
        f"--service-account-signing-key-file={layout.signing.key}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--kubelet-client-certificate={layout.kubelet_client.certificate}",
        f"--kubelet-client-key={layout.kubelet_client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
        "--profiling=false",
    ]


def controller_manager(layout: Layout) -> list[str]:
    return [
        str(layout.binaries.path("kube-controller-manager")),
        *_client(layout, "controller-manager", layout.ports.controller_manager),
        f"--controllers={','.join(CONTROLLERS)}",
        f"--node-monitor-grace-period={NODE_MONITOR_GRACE_S}s",
        "--allocate-node-cidrs=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={layout.signing.key}",
        f"--root-ca-file={layout.authority.certificate}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def scheduler(layout: Layout) -> list[str]:
    return [
        str(layout.binaries.path("kube-scheduler")),
        *_client(layout, "scheduler", layout.ports.scheduler),
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _client(layout: Layout, user: str, port: int) -> list[str]:
    kubeconfig = layout.kubeconfig(user)
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={layout.serving.certificate}",
        f"--tls-private-key-file={layout.serving.key}",
        "--leader-elect=false",
        "--profiling=false",
    ]
