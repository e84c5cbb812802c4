"""Writes what an `IPAMClaim` got into its status: the addresses, and the pod that has them. Before the ADD reply, since the next pod looks there."""

from __future__ import annotations

from adapters.kube.store import Missing, Store, Stored, StoreError
from crds.core import Pod
from crds.identities import IPAM_CLAIM
from ipam.errors import NephilaError
from ipam.multus import claim_of_interface
from nodeagent.allocator import Attachment
from nodeagent.answers import with_prefix
from nodeagent.world import World


class Claims:
    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world

    async def tell(self, pod: Pod, attachment: Attachment) -> None:
        """Bring the status of the interface's claim up to date, if it has one. Raises StoreError: try again."""
        try:
            name = claim_of_interface(attachment.key.ifname, pod.annotations, pod.namespace)
        except NephilaError:
            return  # the annotation was made unreadable since the ADD
        claim = await self._store.get(IPAM_CLAIM, name, pod.namespace) if name else None
        if claim is None:
            return  # none, or deleted meanwhile: then nobody looks there
        catalog = self._world.pools.catalog
        ips = tuple(with_prefix(grant, catalog.get(grant.pool)) for grant in attachment.grants)
        present = claim.status
        if present.ips == ips and present.owner_pod is not None and present.owner_pod.name == pod.name:
            return
        outcome = await self._store.patch(
            IPAM_CLAIM,
            name,
            {"status": {"ips": list(ips), "ownerPod": {"name": pod.name}}},
            namespace=pod.namespace,
            resource_version=claim.resource_version,
            subresource="status",
        )
        if not isinstance(outcome, Stored | Missing):
            raise StoreError(f"IPAMClaim {pod.namespace}/{name}: {outcome}")
