"""Who owns a pod in the end (its Deployment, StatefulSet, CronJob …), with the look-ups that takes, remembered by UID."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import structlog

from adapters.kube.store import Store, StoreError
from crds.convert import as_owner, owner_references
from crds.core import JOB, REPLICA_SET, Pod
from crds.meta import Kind
from ipam.errors import ApiUnreachable, OwnerMissing
from ipam.owners import OwnerNeeded, OwnerReference, TopOwner, top_owner

log = structlog.get_logger(__name__)

MAX_REMEMBERED = 2048
_KINDS: dict[tuple[str, str], Kind[Any]] = {("apps", "ReplicaSet"): REPLICA_SET, ("batch", "Job"): JOB}


class Ownership:
    """ownerReferences of a ReplicaSet or Job are set when it is created, so one read per owner is enough."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, tuple[OwnerReference, ...] | None] = OrderedDict()

    async def of(self, pod: Pod) -> TopOwner:
        """The pod's top controller, or the pod itself. Raises OwnerMissing, ApiUnreachable."""
        while True:
            try:
                found = top_owner(as_owner(pod), owner_references(pod), self._known)
            except OwnerMissing:
                self._forget_missing()  # perhaps only not visible yet: the next try looks again
                raise
            if isinstance(found, TopOwner):
                return found
            await self._look_up(found)

    async def _look_up(self, needed: OwnerNeeded) -> None:
        owner = needed.owner
        kind = _KINDS[owner.group, owner.kind]
        try:
            stored = await self._store.get(kind, owner.name, owner.namespace)
        except StoreError as error:
            raise ApiUnreachable(f"{owner.kind} {owner.namespace}/{owner.name} could not be read: {error}") from error
        self._known[owner.uid] = owner_references(stored) if stored is not None and stored.uid == owner.uid else None
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def _forget_missing(self) -> None:
        for uid in [uid for uid, references in self._known.items() if references is None]:
            del self._known[uid]
