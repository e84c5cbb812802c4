"""The agent's settings: one YAML file, every key optional except `node`; a misspelt key is an error, not a default.

One file serves every node of a DaemonSet: where it has no `node`, the environment's NODE_NAME says it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from adapters import spiderpool_conf
from adapters.settings import ApiSettings, MetricsSettings
from ipam.addresses import Network
from ipam.errors import BadValue
from ipam.parents import Parent, Parents, parents_problem
from probes.macs import mac_bytes

NODE_VARIABLE = "NODE_NAME"


class FeatureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What the cluster uses; the names are those of Spiderpool's `spiderpool-conf`."""

    enable_ipv4: bool = msgspec.field(default=True, name="enableIPv4")  # pods may get IPv4 addresses
    enable_ipv6: bool = msgspec.field(default=True, name="enableIPv6")  # pods may get IPv6 addresses
    enable_stateful_set: bool = True  # pods of StatefulSets keep their addresses
    enable_kubevirt_static_ip: bool = msgspec.field(
        default=True, name="enableKubevirtStaticIP"
    )  # KubeVirt's machines keep their addresses
    enable_spider_subnet: bool = True  # pods may ask for a SpiderSubnet
    enable_auto_pool_for_application: bool = True  # applications get a pool of their own from a SpiderSubnet
    enable_validating_resources_deleted_webhook: bool = (
        True  # the webhook, if it is served, refuses to delete a pool or Subnet in use
    )
    cluster_network: str = ""  # MULTUS_CLUSTER_NETWORK: the NAD of eth0 where pods do not say one


class LeaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Times of the lease protocol, in seconds (docs/concepts.md)."""

    heartbeat_s: float = 30.0  # between two heartbeats; a third of leaseS at most
    lease_s: float = 300.0  # without an acknowledged heartbeat for so long, the node hands out no new address
    cooldown_s: float = 60.0  # a released address rests for so long
    cooldown_floor_s: float = 10.0  # a starving node may use a cooling address of its own from this age on
    wait_s: float = 8.0  # how long an ADD waits in line for an address
    leak_confirm_s: float = 30.0  # between the first sight of a leaked allocation and its release

    def __post_init__(self) -> None:
        if self.lease_s < 3 * self.heartbeat_s:
            raise ValueError(f"leaseS {self.lease_s} must be at least three times heartbeatS {self.heartbeat_s}")
        if self.cooldown_floor_s > self.cooldown_s:
            raise ValueError(f"cooldownFloorS {self.cooldown_floor_s} must not exceed cooldownS {self.cooldown_s}")


class ParentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """One more interface on which pods are attached, and whose addresses are behind it."""

    interface: str  # its name on the node
    domain: str = ""  # the L2 domain behind it
    subnets: tuple[str, ...] = ()  # only addresses inside these; empty: all of the domain that no other parent names


class ProbeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Verification of addresses on the parent interface."""

    verify_interval_s: float = 300.0  # a clear verdict is believed for so long
    retest_s: float = 60.0  # an address that a stranger uses is tested again after this, and ever more rarely
    audit: bool = False  # test the reserved and excluded addresses of the pools too, for IPNode.status.audit
    audit_interval_s: float = 600.0  # each of them so often
    audit_per_s: float = 10.0  # so many a second at most
    watch: Literal["ebpf", "packet", "off"] = "ebpf"  # the best watcher to try
    gateway: Literal["off", "report", "require"] = (
        "off"  # ask whether the pools' gateways answer; require: no address of a pool whose gateway is silent
    )
    gateway_interval_s: float = 30.0  # each of them so often, ahead of any ADD
    proxy_macs: tuple[str, ...] = msgspec.field(
        default=(), name="proxyMACs"
    )  # MACs that answer for every address, beside those found by surveys

    def __post_init__(self) -> None:
        if self.gateway_interval_s < 1.0:
            raise ValueError(f"gatewayIntervalS {self.gateway_interval_s} must be at least 1")
        for index, mac in enumerate(self.proxy_macs):
            try:
                mac_bytes(mac)
            except ValueError as error:
                raise ValueError(f"proxyMACs[{index}]: {error}") from error


class LeaderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Whether this agent starts a leader as its child, and on which nodes: those whose labels are as in `nodeSelector` (empty: all)."""

    enabled: bool = False  # start a leader as a child of this agent
    config: str = "/etc/nephila/leader.yaml"  # the leader's own settings (docs/reference/leader-config.md)
    node_selector: dict[str, str] = {}  # only on nodes with these labels; empty: on all


class WebhookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The admission webhook of pools, Subnets and ReservedIPs, served over HTTPS; the leader keeps its certificate."""

    address: str = ""  # "host:port"; "" serves none
    certificates: str = "/etc/nephila-webhook"  # folder with tls.crt and tls.key, looked at every 5 s


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Everything the agent is told at start."""

    node: str  # name of this node's Node object; where the file has none, the environment variable NODE_NAME says it, as in the chart
    parent: str = (
        ""  # interface on which pods are attached; probes and announcements leave through it; "": no verification
    )
    domain: str = ""  # the L2 domain behind it, as the pools' annotation nephila.io/l2-domain names it
    parents: tuple[ParentSettings, ...] = ()  # further interfaces of nodes that are on several segments
    socket: str = "/run/nephila/nephila.sock"  # where the CNI shim finds the agent; DELs are spooled beside it
    state_dir: str = "/var/lib/nephila"  # the journal; must survive the agent's pod, and be on a local disk
    health_address: str = ""  # "host:port" for /v1/runtime/* and /metrics; "" serves none
    log_level: str = "info"  # one of debug, info, warning, error
    spiderpool_conf: str = ""  # Spiderpool's conf.yml, or the folder where its ConfigMap is mounted: its keys count where this file is silent
    api: ApiSettings = ApiSettings()
    features: FeatureSettings = FeatureSettings()
    lease: LeaseSettings = LeaseSettings()
    probe: ProbeSettings = ProbeSettings()
    leader: LeaderSettings = LeaderSettings()
    metrics: MetricsSettings = MetricsSettings()
    webhook: WebhookSettings = WebhookSettings()

    def __post_init__(self) -> None:
        if problem := parents_problem(self.attached().listed):
            raise ValueError(f"parents: {problem}")

    def attached(self) -> Parents:
        """Every interface on which pods are attached: `parent` first, then `parents`. Raises ValueError naming the field."""
        first = (Parent(self.parent, self.domain),) if self.parent else ()
        others = (_parent(index, given) for index, given in enumerate(self.parents))
        return Parents((*first, *others))


def _parent(index: int, given: ParentSettings) -> Parent:
    if not given.interface:
        raise ValueError(f"parents[{index}].interface must not be empty")
    try:
        return Parent(given.interface, given.domain, tuple(map(Network.parse, given.subnets)))
    except BadValue as error:
        raise ValueError(f"parents[{index}].subnets: {error}") from error


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> AgentConfig:
    """Read the settings file. Raises BadValue naming the file, the key and what is wrong."""
    try:
        raw: Any = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise BadValue(str(path), f"cannot be read: {error.strerror}", "give --config an existing YAML file") from error
    except yaml.YAMLError as error:
        raise BadValue(str(path), f"is not YAML: {error}", "correct the file") from error
    if isinstance(raw, dict) and environ.get(NODE_VARIABLE):
        raw.setdefault("node", environ[NODE_VARIABLE])
    spiderpool_conf.extend(raw, spiderpool_conf.AGENT)
    try:
        return msgspec.convert(raw, AgentConfig)
    except msgspec.ValidationError as error:
        raise BadValue(str(path), str(error), "see docs/reference/agent-config.md for the keys") from error
