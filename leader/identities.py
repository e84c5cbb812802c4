"""Who still wants a pinned address: asked of the API server, never of copies, before a pin or a record of an identity is ended."""

from __future__ import annotations

from adapters.kube.store import Store
from crds import convert
from crds.core import POD, STATEFUL_SET, StatefulSet
from crds.identities import CLAIM, IPAM_CLAIM, MACHINE, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from ipam import owners
from ipam.blocks import PinOwner
from ipam.owners import is_wanted_ordinal

STATEFUL, PLAIN = "StatefulSet", "Pod"
# Kinds of which the leader keeps no copy: clusters without them have no such kind to watch. While a pod has the address nobody asks.
ASKED = frozenset({MACHINE, CLAIM})


async def is_wanted_now(store: Store, owner: PinOwner) -> bool:
    """Whether the identity exists. Raises StoreError, also where the API server does not know the kind: that proves nothing about objects."""
    match owner.kind:
        case "Pod":
            pod = await store.get(POD, owner.name, owner.namespace)
            return pod is not None and pod.uid == owner.uid
        case "StatefulSet":
            name = set_of(owner)
            stored = await store.get(STATEFUL_SET, name, owner.namespace) if name else None
            return bool(name) and wants(stored, owner.name, name)
        case "VirtualMachineInstance":
            return await is_machine_wanted(store, owner.namespace, owner.name)
        case "IPAMClaim":
            claim = await store.get(IPAM_CLAIM, owner.name, owner.namespace)
            return claim is not None and owner.uid in ("", claim.uid)
        case _:
            return True  # made by whom we do not know


async def is_machine_wanted(store: Store, namespace: str, name: str) -> bool:
    """A machine keeps its address while its instance lives, and while it is stopped but not deleted. Raises StoreError."""
    if await store.get(VIRTUAL_MACHINE_INSTANCE, name, namespace) is not None:
        return True
    machine = await store.get(VIRTUAL_MACHINE, name, namespace)
    return machine is not None and not machine.deleting


def wants(owner: StatefulSet | None, pod: str, set_name: str) -> bool:
    """Whether the StatefulSet, at its present size, has a pod of this name. One that is being deleted wants none."""
    if owner is None or owner.deleting:
        return False
    start, replicas = convert.ordinals(owner)
    return is_wanted_ordinal(pod, set_name=set_name, start=start, replicas=replicas)


def set_of(owner: PinOwner) -> str:
    """The StatefulSet that a pinned pod name spells; "" if it has no such form."""
    spelled = owners.ordinal(owner.name)
    return spelled[0] if spelled else ""
