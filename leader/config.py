"""The leader's settings: one YAML file, every key optional except `node`; a misspelt key is an error, not a default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from adapters import spiderpool_conf
from adapters.settings import ApiSettings, MetricsSettings
from ipam.election import Timings
from ipam.errors import BadValue
from ipam.facts import Features
from ipam.reclaim import GRACE_S, Policy, Rules


class ElectionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Seconds: how long others wait for a silent leader, when it gives up by itself, how often it renews."""

    lease_s: float = 12.0  # others wait so long for a silent leader; a new reign then begins within 15
    renew_deadline_s: float = 8.0  # a leader that could not renew for so long gives up by itself
    retry_s: float = 2.0  # between two renewals, or two looks at the lock

    def __post_init__(self) -> None:
        self.timings()

    def timings(self) -> Timings:
        return Timings(self.lease_s, self.renew_deadline_s, self.retry_s)


class ReclaimSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """`agentLeaseS` must not be below the `lease.leaseS` of any agent: it is how long a silent agent may go on handing out."""

    agent_lease_s: float = 300.0  # not below the `lease.leaseS` of any agent
    grace_s: float = GRACE_S  # waited on top of 1.1 times agentLeaseS
    unreachable: Literal["Probe", "Confirm", "Never"] = (
        "Probe"  # what may be taken from a silent node that still exists: what pods do not use, that after confirmation, nothing
    )
    period_s: float = 10.0  # between two looks at all nodes

    def rules(self) -> Rules:
        return Rules(self.agent_lease_s, self.grace_s, Policy(self.unreachable))


class SweepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Orphaned SpiderEndpoints and pins: how often they are looked for, and for how long one must be seen orphaned before it is removed."""

    period_s: float = 30.0  # between two sweeps
    orphan_s: float = 60.0  # an orphan must be seen for so long before it is removed


class StatusSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Pool status: the least time between two writes of one pool, and writes per second over all pools."""

    gap_s: float = 1.0  # between two writes of one pool
    writes_per_s: float = 20.0  # over all pools


class ApplicationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Pools made from SpiderSubnets; the names are those of Spiderpool's `spiderpool-conf`, and must say what the agents' say."""

    enable_ipv4: bool = msgspec.field(default=True, name="enableIPv4")  # as the agents have it
    enable_ipv6: bool = msgspec.field(default=True, name="enableIPv6")  # as the agents have it
    enable_spider_subnet: bool = True  # as the agents have it
    enable_auto_pool_for_application: bool = True  # as the agents have it
    default_flexible_ip_number: int = msgspec.field(
        default=1, name="clusterSubnetDefaultFlexibleIPNumber"
    )  # addresses beyond the replicas, where the application does not say
    period_s: float = 30.0  # everything is looked at so often, whatever was seen to change

    def features(self) -> Features:
        return Features(
            self.enable_ipv4, self.enable_ipv6, self.enable_spider_subnet, self.enable_auto_pool_for_application
        )


class WebhookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The certificate of the admission webhook, which agents serve. The objects named here are the chart's: the leader reads and patches them."""

    enabled: bool = False  # keep the certificate, and publish its authority in the webhook configurations
    namespace: str = "nephila-system"  # of the Secret, and of the Service that names below belong to
    secret: str = "nephila-webhook"  # name of the Secret that agents serve from
    configuration: str = "nephila"  # name of the validating and of the mutating webhook configuration
    names: tuple[str, ...] = ()  # host names in the certificate; empty: nephila-webhook.<namespace>.svc
    period_s: float = 30.0  # between two looks at the certificate and at the configurations

    def hosts(self) -> tuple[str, ...]:
        return self.names or (f"nephila-webhook.{self.namespace}.svc",)


class LeaderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Everything the leader is told at start. `warm_standby`: candidates that do not lead keep their picture of the cluster up to date, which
    costs memory and watches, and saves the time to list everything when they take over."""

    node: str  # name of the node it runs on; `--node` on the command line wins, and stands in where the file has none
    health_address: str = ""  # "host:port" for /v1/runtime/* and /metrics; "" serves none
    page_address: str = ""  # "host:port" for the page to look at, read-only and without a login; "" serves none
    log_level: str = "info"  # one of debug, info, warning, error
    spiderpool_conf: str = ""  # Spiderpool's conf.yml, or the folder where its ConfigMap is mounted: its keys count where this file is silent
    warm_standby: bool = True  # candidates that do not lead keep their picture of the cluster up to date
    silent_s: float = 90.0  # a node without a heartbeat for so long is not asked for slots
    api: ApiSettings = ApiSettings()
    election: ElectionSettings = ElectionSettings()
    reclaim: ReclaimSettings = ReclaimSettings()
    sweep: SweepSettings = SweepSettings()
    status: StatusSettings = StatusSettings()
    metrics: MetricsSettings = MetricsSettings()
    applications: ApplicationSettings = ApplicationSettings()
    webhook: WebhookSettings = WebhookSettings()


def load_config(path: Path, *, node: str = "") -> LeaderConfig:
    """Read the settings file; `node`, if given, wins over the file's. Raises BadValue naming the file, the key and what is wrong."""
    try:
        raw: Any = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise BadValue(str(path), f"cannot be read: {error.strerror}", "give --config an existing YAML file") from error
    except yaml.YAMLError as error:
        raise BadValue(str(path), f"is not YAML: {error}", "correct the file") from error
    if node and isinstance(raw, dict):
        raw["node"] = node
    spiderpool_conf.extend(raw, spiderpool_conf.LEADER)
    try:
        return msgspec.convert(raw, LeaderConfig)
    except msgspec.ValidationError as error:
        raise BadValue(str(path), str(error), "see docs/reference/leader-config.md for the keys") from error
