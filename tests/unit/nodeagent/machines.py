"""KubeVirt's objects as its controllers would write them: machines, their instances, `virt-launcher` pods, migrations; and `IPAMClaim`s."""

from __future__ import annotations

import itertools
from typing import Any

from adapters.kube.store import Stored
from crds.blocks import block_from_wire
from crds.core import POD, Pod
from crds.identities import (
    IPAM_CLAIM,
    MIGRATION_JOB,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    VIRTUAL_MACHINE_MIGRATION,
    IPAMClaim,
)
from crds.nephila import IP_BLOCK
from ipam.blocks import Pin
from ipam.slots import SlotId
from tests.unit.nodeagent.harness import Lab

_ids = itertools.count(1)


async def machine(lab: Lab, name: str = "vm") -> Any:
    """A VirtualMachine, and its running instance."""
    await lab.create(VIRTUAL_MACHINE, metadata={"name": name, "namespace": "default"})
    return await boot(lab, name)


async def boot(lab: Lab, name: str = "vm") -> Any:
    """An instance of the machine, anew: a former one of the name is gone."""
    await lab.store.delete(VIRTUAL_MACHINE_INSTANCE, name, namespace="default")
    owner = await lab.store.get(VIRTUAL_MACHINE, name, "default")
    references = [_by(owner)] if owner is not None else []
    return await lab.create(
        VIRTUAL_MACHINE_INSTANCE, metadata={"name": name, "namespace": "default", "ownerReferences": references}
    )


async def launcher(
    lab: Lab, instance: Any, node: str, annotations: dict[str, str] | None = None, migration: str = ""
) -> Pod:
    """A `virt-launcher` pod of the instance; as target of `migration`, if named."""
    notes = {**(annotations or {}), **({MIGRATION_JOB: migration} if migration else {})}
    name = f"virt-launcher-{instance.name}-{next(_ids):05d}"
    made: Pod = await lab.create(
        POD,
        metadata={
            "name": name,
            "namespace": "default",
            "annotations": notes,
            "labels": {"kubevirt.io": "virt-launcher"},
            "ownerReferences": [_by(instance)],
        },
        spec={"nodeName": node},
        status={"phase": "Running"},
    )
    return made


async def migration(lab: Lab, instance: Any, name: str = "move") -> str:
    await lab.create(
        VIRTUAL_MACHINE_MIGRATION, metadata={"name": name, "namespace": "default"}, spec={"vmiName": instance.name}
    )
    return name


async def migrated(lab: Lab, name: str, phase: str) -> None:
    """The migration ended so."""
    changes = {"status": {"phase": phase}}
    outcome = await lab.store.patch(VIRTUAL_MACHINE_MIGRATION, name, changes, namespace="default", subresource="status")
    assert isinstance(outcome, Stored)


async def stop(lab: Lab, pod: Pod) -> None:
    await lab.store.delete(POD, pod.name, namespace=pod.namespace)


async def claim(lab: Lab, name: str = "vm.net1", network: str = "underlay") -> IPAMClaim:
    made: IPAMClaim = await lab.create(
        IPAM_CLAIM, metadata={"name": name, "namespace": "default"}, spec={"network": network, "interface": "net1"}
    )
    return made


async def pins(lab: Lab) -> dict[str, Pin]:
    """All pins by address; every block is consistent."""
    found: dict[str, Pin] = {}
    for stored in (await lab.store.list(IP_BLOCK)).items:
        block = block_from_wire(stored)
        assert block.problems() == ()
        for pin in block.pins:
            found[str(SlotId("", block.page.family, block.page.base + pin.slot))] = pin
    return found


def _by(owner: Any) -> dict[str, Any]:
    return {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }
