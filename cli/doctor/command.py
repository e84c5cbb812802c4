"""`nephila doctor`: asks the cluster and this machine, and prints one line per check."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from adapters.kube.store import Store, Stored, StoreError
from cli.cluster import Cluster
from cli.connection import Session
from cli.doctor.checks import FAIL, OK, ClusterFacts, Line, cluster_lines, host_lines
from cli.doctor.host import is_node, read_host
from cli.explain.networks import ipam_defaults
from cli.failures import CliError, Exit
from cli.output import Format, machine, styled
from cli.reading import read_cluster
from cli.views.nodes import state_of as node_state
from crds.core import NETWORK_ATTACHMENT
from crds.meta import UNSET, Kind, KubeObject, ObjectMeta, UnsetType, WireStruct, constant
from crds.models import DEFINED
from crds.nephila import IP_BLOCK, IP_NODE, LEADER_LOCK
from crds.spiderpool import ENDPOINT, IP_POOL
from ipam.errors import NephilaError

_STYLE = {OK: "green", "warn": "yellow", FAIL: "red"}
_NEEDED: tuple[tuple[Kind[Any], str], ...] = (
    (IP_POOL, "list"),
    (IP_BLOCK, "list"),
    (IP_BLOCK, "patch"),
    (IP_NODE, "list"),
    (IP_NODE, "patch"),
    (LEADER_LOCK, "get"),
    (ENDPOINT, "list"),
    (ENDPOINT, "delete"),
)


class CrdVersion(WireStruct):
    name: str
    served: bool = False


class CrdSpec(WireStruct):
    versions: tuple[CrdVersion, ...] = ()


class CustomResourceDefinition(KubeObject):
    api_version: str = constant("apiextensions.k8s.io/v1")
    kind: str = constant("CustomResourceDefinition")
    spec: CrdSpec = CrdSpec()


class ResourceAttributes(WireStruct):
    verb: Annotated[str, "get, list, patch …"]
    group: str = ""
    resource: str = ""


class ReviewSpec(WireStruct):
    resource_attributes: ResourceAttributes


class ReviewStatus(WireStruct):
    allowed: bool = False


class SelfSubjectAccessReview(KubeObject):
    api_version: str = constant("authorization.k8s.io/v1")
    kind: str = constant("SelfSubjectAccessReview")
    spec: ReviewSpec
    status: ReviewStatus | UnsetType = UNSET


CRD = Kind(
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    "customresourcedefinition",
    False,
    CustomResourceDefinition,
)
REVIEW = Kind(
    "authorization.k8s.io",
    "v1",
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    "selfsubjectaccessreview",
    False,
    SelfSubjectAccessReview,
)


async def examine(session: Session, fmt: Format, host_root: str) -> Exit:
    """Exit code 1 if a check fails; warnings do not count."""
    cluster: Cluster | None = None
    with contextlib.suppress(CliError):  # the checks of CRDs and permissions say why
        cluster = await read_cluster(session.store, time.time())
    lines = cluster_lines(await _ask(session, cluster))
    root = Path(host_root)
    if is_node(root):
        lines += host_lines(read_host(root, _in_use(cluster)))
    else:
        lines += (Line(level=OK, what="this machine", text="is no Kubernetes node: run doctor on one too", fix=""),)
    if fmt in (Format.JSON, Format.YAML):
        sys.stdout.write(machine(lines, fmt))
    else:
        sys.stdout.write(lines_text(lines, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return Exit.BAD_ANSWER if any(line.level == FAIL for line in lines) else Exit.OK


def lines_text(lines: tuple[Line, ...], *, colour: bool = False) -> str:
    """For people."""
    width = max(len(line.what) for line in lines)
    text = ""
    for line in lines:
        level = styled(line.level.ljust(4), _STYLE[line.level]) if colour else line.level.ljust(4)
        text += f"{level}  {line.what.ljust(width)}  {line.text}\n"
        text += f"      {'':{width}}  fix: {line.fix}\n" if line.fix else ""
    return text


def _in_use(cluster: Cluster | None) -> dict[int, int]:
    """How many addresses pods have, by family: as many neighbours can a node meet on its segment."""
    found = {4: 0, 6: 0}
    for slot in cluster.holders if cluster else ():
        found[int(slot.family)] += 1
    return found


async def _ask(session: Session, cluster: Cluster | None) -> ClusterFacts:
    version, crds, denied, (broken, nads) = await asyncio.gather(
        session.server_version(), _crds(session.store), _denied(session.store), _nads(session.store)
    )
    names = sorted(cluster.node_of_name) if cluster else []
    return ClusterFacts(
        server_version=version,
        crds=crds,
        wanted_crds={f"{kind.plural}.{kind.group}": kind.version for kind in DEFINED},
        denied=denied,
        broken_nads=broken,
        nads=nads,
        leader=cluster.lock.spec.holder if cluster and cluster.lock else "",
        silent_nodes=[
            f"{name} ({state})" for name in names if cluster and (state := node_state(cluster, name)) != "Ready"
        ],
        nodes=len(names),
        unverified=_unverified(cluster),
    )


def _unverified(cluster: Cluster | None) -> dict[str, int]:
    mailboxes = cluster.mailbox_of_name.values() if cluster else ()
    statuses = [mailbox.status for mailbox in mailboxes if mailbox.status is not UNSET]
    found = Counter(stock.name for status in statuses for stock in status.pools if stock.unverified)
    return dict(sorted(found.items()))


async def _crds(store: Store) -> dict[str, tuple[str, ...]] | None:
    try:
        listing = await store.list(CRD)
    except StoreError:
        return None
    return {item.name: tuple(v.name for v in item.spec.versions if v.served) for item in listing.items}


async def _denied(store: Store) -> list[str] | None:
    """What these credentials may not do; None if the server does not answer the question."""
    denied: list[str] = []
    for kind, verb in _NEEDED:
        question = ReviewSpec(resource_attributes=ResourceAttributes(verb=verb, group=kind.group, resource=kind.plural))
        outcome = await store.create(REVIEW, SelfSubjectAccessReview(metadata=ObjectMeta(), spec=question))
        if not isinstance(outcome, Stored) or outcome.object.status is UNSET:
            return None
        if not outcome.object.status.allowed:
            denied.append(f"{verb} {kind.plural}")
    return denied


async def _nads(store: Store) -> tuple[dict[str, str] | None, int]:
    try:
        listing = await store.list(NETWORK_ATTACHMENT)
    except StoreError:
        return None, 0
    broken: dict[str, str] = {}
    for stored in listing.items:
        if not stored.spec.config:
            continue
        try:
            ipam_defaults(stored.spec.config, "spec.config")
        except NephilaError as error:
            broken[f"{stored.namespace}/{stored.name}"] = error.message
    return broken, len(listing.items)
