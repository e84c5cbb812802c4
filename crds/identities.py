"""The parts that Nephila reads of other projects' kinds which stand for an identity that outlives its pods: KubeVirt's machines, and `IPAMClaim`.

Sources: KubeVirt's API (`kubevirt.io/v1`) and the multi-network working group's `k8s.cni.cncf.io/v1alpha1`. None of the CRDs is ours: a cluster that
lacks them has no such identity.
"""

from __future__ import annotations

from crds.meta import Kind, KubeObject, WireStruct, constant

KUBEVIRT = "kubevirt.io"
MACHINE = "VirtualMachineInstance"
CLAIM = "IPAMClaim"
MIGRATION_JOB = "kubevirt.io/migrationJobName"  # annotation of a migration's target pod: the name of its VirtualMachineInstanceMigration


class VirtualMachine(KubeObject):
    api_version: str = constant("kubevirt.io/v1")
    kind: str = constant("VirtualMachine")


class VirtualMachineInstance(KubeObject):
    api_version: str = constant("kubevirt.io/v1")
    kind: str = constant(MACHINE)


class MigrationSpec(WireStruct):
    vmi_name: str = ""


class MigrationStatus(WireStruct):
    phase: str = ""


class VirtualMachineInstanceMigration(KubeObject):
    api_version: str = constant("kubevirt.io/v1")
    kind: str = constant("VirtualMachineInstanceMigration")
    spec: MigrationSpec = MigrationSpec()
    status: MigrationStatus = MigrationStatus()

    @property
    def is_over(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")


class ClaimSpec(WireStruct):
    network: str = ""
    interface: str = ""


class OwnerPod(WireStruct):
    name: str = ""


class ClaimStatus(WireStruct):
    ips: tuple[str, ...] | None = None
    owner_pod: OwnerPod | None = None


class IPAMClaim(KubeObject):
    """A claim on addresses for one interface of a workload, whichever pod stands for it. `status.ips` are with prefix length."""

    api_version: str = constant("k8s.cni.cncf.io/v1alpha1")
    kind: str = constant(CLAIM)
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()


VIRTUAL_MACHINE = Kind(
    KUBEVIRT, "v1", "VirtualMachine", "virtualmachines", "virtualmachine", True, VirtualMachine, ("vm",)
)
VIRTUAL_MACHINE_INSTANCE = Kind(
    KUBEVIRT,
    "v1",
    MACHINE,
    "virtualmachineinstances",
    "virtualmachineinstance",
    True,
    VirtualMachineInstance,
    ("vmi",),
)
VIRTUAL_MACHINE_MIGRATION = Kind(
    KUBEVIRT,
    "v1",
    "VirtualMachineInstanceMigration",
    "virtualmachineinstancemigrations",
    "virtualmachineinstancemigration",
    True,
    VirtualMachineInstanceMigration,
    ("vmim",),
    has_status=True,
)
IPAM_CLAIM = Kind("k8s.cni.cncf.io", "v1alpha1", CLAIM, "ipamclaims", "ipamclaim", True, IPAMClaim, (), has_status=True)
