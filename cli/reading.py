"""Reads the picture of the cluster, and owners of pods, through the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from adapters.kube.store import Rejected, Store, StoreError
from cli.cluster import Cluster
from cli.failures import CliError, Exit
from crds.convert import as_owner, owner_references
from crds.core import JOB, NAMESPACE, NODE, POD, REPLICA_SET, Pod
from crds.meta import Kind, KubeObject
from crds.nephila import IP_BLOCK, IP_NODE, LEADER_LOCK
from crds.spiderpool import ENDPOINT, IP_POOL, RESERVED_IP, SUBNET
from ipam.errors import OwnerMissing
from ipam.owners import OwnerNeeded, OwnerReference, TopOwner, top_owner

T = TypeVar("T", bound=KubeObject)
R = TypeVar("R")

LOCK_NAME = "nephila"
_OWNERS: dict[tuple[str, str], Kind[Any]] = {("apps", "ReplicaSet"): REPLICA_SET, ("batch", "Job"): JOB}


async def read_cluster(store: Store, wall: float) -> Cluster:
    """Everything views ask for: ten lists at once. Raises CliError naming the kind that could not be read."""
    (pools, reserved, blocks, mailboxes, nodes), (pods, endpoints, namespaces, subnets, lock) = await asyncio.gather(
        asyncio.gather(
            _listed(store, IP_POOL),
            _listed(store, RESERVED_IP),
            _listed(store, IP_BLOCK),
            _listed(store, IP_NODE),
            _listed(store, NODE),
        ),
        asyncio.gather(
            _listed(store, POD),
            _listed(store, ENDPOINT),
            _listed(store, NAMESPACE),
            _listed(store, SUBNET),
            answered(LEADER_LOCK, store.get(LEADER_LOCK, LOCK_NAME)),
        ),
    )
    unreadable = (
        *pools[1],
        *reserved[1],
        *blocks[1],
        *mailboxes[1],
        *nodes[1],
        *pods[1],
        *endpoints[1],
        *namespaces[1],
    )
    return Cluster(
        wall=wall,
        stored_pools=pools[0],
        stored_reserved=reserved[0],
        stored_subnets=subnets[0],
        stored_blocks=blocks[0],
        mailboxes=mailboxes[0],
        nodes=nodes[0],
        pods=pods[0],
        endpoints=endpoints[0],
        namespaces=namespaces[0],
        lock=lock,
        undecodable=unreadable,
    )


async def _listed(store: Store, kind: Kind[T]) -> tuple[tuple[T, ...], tuple[str, ...]]:
    listing = await answered(kind, store.list(kind))
    broken = (f"{kind.kind} {'/'.join(part for part in key if part)}" for key in listing.unreadable)
    return listing.items, tuple(broken)


async def answered(kind: Kind[Any], reading: Awaitable[R]) -> R:
    """The result of a read; a failure becomes the one line that says what to do."""
    try:
        return await reading
    except Rejected as error:
        if error.status == 404:
            message = f"this cluster does not know {kind.kind} ({kind.api_version})"
            raise CliError(message, "install Nephila's CRDs: kubectl apply -f crds/yaml", code=Exit.CLUSTER) from error
        if error.status in (401, 403):
            message = f"reading {kind.plural} is not allowed: {error.message}"
            fix = f"ask for get and list on {kind.plural} of group {kind.group or 'core'!r}"
            raise CliError(message, fix, code=Exit.CLUSTER) from error
        raise CliError(f"{kind.plural} could not be read: {error}", "try again", code=Exit.CLUSTER) from error
    except StoreError as error:
        raise CliError(f"{kind.plural} could not be read: {error}", "try again", code=Exit.CLUSTER) from error


async def find_owner(store: Store, pod: Pod) -> TopOwner | None:
    """The pod's top controller; None if its chain leads to an object that does not exist. Raises CliError."""
    known: dict[str, tuple[OwnerReference, ...] | None] = {}
    while True:
        try:
            found = top_owner(as_owner(pod), owner_references(pod), known)
        except OwnerMissing:
            return None
        if isinstance(found, TopOwner):
            return found
        known[found.owner.uid] = await _references(store, found)


async def _references(store: Store, needed: OwnerNeeded) -> tuple[OwnerReference, ...] | None:
    owner = needed.owner
    kind = _OWNERS[owner.group, owner.kind]
    stored = await answered(kind, store.get(kind, owner.name, owner.namespace))
    return owner_references(stored) if stored is not None and stored.uid == owner.uid else None
