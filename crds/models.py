"""All kinds in one place: those Nephila defines (a CRD is generated for each) and those it only uses."""

from __future__ import annotations

from typing import Any

from crds import core, identities, nephila, spiderpool
from crds.meta import Kind

DEFINED: tuple[Kind[Any], ...] = (
    spiderpool.IP_POOL,
    spiderpool.SUBNET,
    spiderpool.RESERVED_IP,
    spiderpool.ENDPOINT,
    spiderpool.COORDINATOR,
    spiderpool.MULTUS_CONFIG,
    nephila.IP_BLOCK,
    nephila.IP_NODE,
    nephila.LEADER_LOCK,
)
USED: tuple[Kind[Any], ...] = (
    core.POD,
    core.NODE,
    core.NAMESPACE,
    core.EVENT,
    core.DEPLOYMENT,
    core.REPLICA_SET,
    core.STATEFUL_SET,
    core.DAEMON_SET,
    core.JOB,
    core.CRON_JOB,
    core.NETWORK_ATTACHMENT,
    identities.VIRTUAL_MACHINE,
    identities.VIRTUAL_MACHINE_INSTANCE,
    identities.VIRTUAL_MACHINE_MIGRATION,
    identities.IPAM_CLAIM,
)
KINDS: tuple[Kind[Any], ...] = DEFINED + USED
