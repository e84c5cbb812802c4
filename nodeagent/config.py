"""The agent's settings: one YAML file, every key optional except `node`; a misspelt key is an error, not a default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import yaml

from adapters.settings import ApiSettings, MetricsSettings
from ipam.errors import BadValue


class FeatureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What the cluster uses; the names are those of Spiderpool's `spiderpool-conf`."""

    enable_ipv4: bool = msgspec.field(default=True, name="enableIPv4")
    enable_ipv6: bool = msgspec.field(default=True, name="enableIPv6")
    enable_stateful_set: bool = True
    enable_spider_subnet: bool = True
    enable_auto_pool_for_application: bool = True
    cluster_network: str = ""  # MULTUS_CLUSTER_NETWORK: the NAD of eth0 where pods do not say one


class LeaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Times of the lease protocol, in seconds (docs/architecture.md, design.md section 4)."""

    heartbeat_s: float = 30.0
    lease_s: float = 300.0
    cooldown_s: float = 60.0
    cooldown_floor_s: float = 10.0  # a starving node may use a cooling address of its own from this age on
    wait_s: float = 8.0  # how long an ADD waits in line for an address
    leak_confirm_s: float = 30.0  # between the first sight of a leaked allocation and its release

    def __post_init__(self) -> None:
        if self.lease_s < 3 * self.heartbeat_s:
            raise ValueError(f"leaseS {self.lease_s} must be at least three times heartbeatS {self.heartbeat_s}")
        if self.cooldown_floor_s > self.cooldown_s:
            raise ValueError(f"cooldownFloorS {self.cooldown_floor_s} must not exceed cooldownS {self.cooldown_s}")


class ProbeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Verification of addresses on the parent interface."""

    verify_interval_s: float = 300.0  # a clear verdict is believed for so long
    watch: Literal["ebpf", "packet", "off"] = "ebpf"  # the best watcher to try


class LeaderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Whether this agent starts a leader as its child, and on which nodes: those whose labels are as in `node_selector` (empty: all)."""

    enabled: bool = False
    config: str = "/etc/nephila/leader.yaml"
    node_selector: dict[str, str] = {}


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Everything the agent is told at start."""

    node: str
    parent: str = (
        ""  # interface on which pods are attached; probes and announcements leave through it; "": no verification
    )
    domain: str = ""  # the L2 domain behind it, as the pools' annotation nephila.io/l2-domain names it
    socket: str = "/run/nephila/nephila.sock"
    state_dir: str = "/var/lib/nephila"
    health_address: str = ""  # "host:port" for /v1/runtime/* and /metrics; "" serves none
    log_level: str = "info"
    api: ApiSettings = ApiSettings()
    features: FeatureSettings = FeatureSettings()
    lease: LeaseSettings = LeaseSettings()
    probe: ProbeSettings = ProbeSettings()
    leader: LeaderSettings = LeaderSettings()
    metrics: MetricsSettings = MetricsSettings()


def load_config(path: Path) -> AgentConfig:
    """Read the settings file. Raises BadValue naming the file, the key and what is wrong."""
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadValue(str(path), f"cannot be read: {error.strerror}", "give --config an existing YAML file") from error
    except yaml.YAMLError as error:
        raise BadValue(str(path), f"is not YAML: {error}", "correct the file") from error
    try:
        return msgspec.convert(raw, AgentConfig)
    except msgspec.ValidationError as error:
        raise BadValue(str(path), str(error), "see docs/reference/agent-config.md for the keys") from error
