"""The parts of Kubernetes' own kinds (and of Multus') that Nephila reads or writes."""

from __future__ import annotations

from datetime import datetime

from crds.meta import UNSET, Kind, KubeObject, LabelSelector, ObjectMeta, UnsetType, WireStruct, constant


class PodIP(WireStruct):
    ip: str = ""


class ContainerStateTerminated(WireStruct):
    finished_at: datetime | None = None


class ContainerState(WireStruct):
    terminated: ContainerStateTerminated | UnsetType = UNSET


class ContainerStatus(WireStruct):
    name: str = ""
    state: ContainerState = ContainerState()


class PodSpec(WireStruct):
    node_name: str = ""
    host_network: bool = False
    restart_policy: str = "Always"
    subdomain: str = ""
    hostname: str = ""
    termination_grace_period_seconds: int | None = None


class PodStatus(WireStruct):
    phase: str = ""
    reason: str = ""
    pod_ip: str = ""
    pod_ips: tuple[PodIP, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(KubeObject):
    api_version: str = constant("v1")
    kind: str = constant("Pod")
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""A taint: an administrator's word that nothing runs on the node (KEP-2268)."""


class Taint(WireStruct):
    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(WireStruct):
    unschedulable: bool = False
    taints: tuple[Taint, ...] | None = None


class NodeCondition(WireStruct):
    type: str
    status: str
    reason: str = ""
    last_transition_time: datetime | None = None


class NodeSystemInfo(WireStruct):
    boot_id: str = ""
    kernel_version: str = ""
    kubelet_version: str = ""


class NodeStatus(WireStruct):
    node_info: NodeSystemInfo = NodeSystemInfo()
    conditions: tuple[NodeCondition, ...] | None = None


class Node(KubeObject):
    api_version: str = constant("v1")
    kind: str = constant("Node")
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def is_out_of_service(self) -> bool:
        return any(taint.key == OUT_OF_SERVICE for taint in self.spec.taints or ())


class Namespace(KubeObject):
    api_version: str = constant("v1")
    kind: str = constant("Namespace")


class ObjectReference(WireStruct):
    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


class EventSeries(WireStruct):
    count: int
    last_observed_time: str


class Event(KubeObject):
    """An `events.k8s.io/v1` event. `event_time` is a MicroTime text (microseconds, `Z`)."""

    api_version: str = constant("events.k8s.io/v1")
    kind: str = constant("Event")
    event_time: str | None = None
    reporting_controller: str = ""
    reporting_instance: str = ""
    action: str = ""
    reason: str = ""
    type: str = ""
    note: str = ""
    regarding: ObjectReference = ObjectReference()
    related: ObjectReference | UnsetType = UNSET
    series: EventSeries | UnsetType = UNSET


class PodTemplate(WireStruct):
    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()


class Ordinals(WireStruct):
    start: int = 0


class RollingUpdate(WireStruct):
    max_surge: int | str | None = None
    max_unavailable: int | str | None = None


class UpdateStrategy(WireStruct):
    type: str = ""
    rolling_update: RollingUpdate | UnsetType = UNSET


class WorkloadSpec(WireStruct):
    """The spec shared by Deployment, ReplicaSet, StatefulSet and DaemonSet. Absent `replicas` means 1."""

    replicas: int | None = None
    selector: LabelSelector = LabelSelector()
    template: PodTemplate = PodTemplate()
    ordinals: Ordinals = Ordinals()
    strategy: UpdateStrategy = UpdateStrategy()
    update_strategy: UpdateStrategy = UpdateStrategy()


class WorkloadStatus(WireStruct):
    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    desired_number_scheduled: int = 0


class Deployment(KubeObject):
    api_version: str = constant("apps/v1")
    kind: str = constant("Deployment")
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class ReplicaSet(KubeObject):
    api_version: str = constant("apps/v1")
    kind: str = constant("ReplicaSet")
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class StatefulSet(KubeObject):
    api_version: str = constant("apps/v1")
    kind: str = constant("StatefulSet")
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class DaemonSet(KubeObject):
    api_version: str = constant("apps/v1")
    kind: str = constant("DaemonSet")
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class JobSpec(WireStruct):
    completions: int | None = None
    parallelism: int | None = None
    suspend: bool | None = None
    template: PodTemplate = PodTemplate()


class JobStatus(WireStruct):
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    completion_time: datetime | None = None


class Job(KubeObject):
    api_version: str = constant("batch/v1")
    kind: str = constant("Job")
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class JobTemplate(WireStruct):
    metadata: ObjectMeta = ObjectMeta()
    spec: JobSpec = JobSpec()


class CronJobSpec(WireStruct):
    job_template: JobTemplate = JobTemplate()
    suspend: bool | None = None


class CronJob(KubeObject):
    api_version: str = constant("batch/v1")
    kind: str = constant("CronJob")
    spec: CronJobSpec = CronJobSpec()


class NetworkAttachmentSpec(WireStruct):
    config: str = ""


class NetworkAttachmentDefinition(KubeObject):
    """Multus' definition of a network; `spec.config` is a CNI configuration as a JSON text."""

    api_version: str = constant("k8s.cni.cncf.io/v1")
    kind: str = constant("NetworkAttachmentDefinition")
    spec: NetworkAttachmentSpec = NetworkAttachmentSpec()


class Secret(KubeObject):
    """`data` is in base64."""

    api_version: str = constant("v1")
    kind: str = constant("Secret")
    type: str = ""
    data: dict[str, str] | None = None


POD = Kind("", "v1", "Pod", "pods", "pod", True, Pod, ("po",), ("all",), has_status=True)
NODE = Kind("", "v1", "Node", "nodes", "node", False, Node, ("no",), has_status=True)
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", "namespace", False, Namespace, ("ns",), has_status=True)
EVENT = Kind("events.k8s.io", "v1", "Event", "events", "event", True, Event, ("ev",))
DEPLOYMENT = Kind(
    "apps", "v1", "Deployment", "deployments", "deployment", True, Deployment, ("deploy",), ("all",), has_status=True
)
REPLICA_SET = Kind(
    "apps", "v1", "ReplicaSet", "replicasets", "replicaset", True, ReplicaSet, ("rs",), ("all",), has_status=True
)
STATEFUL_SET = Kind(
    "apps", "v1", "StatefulSet", "statefulsets", "statefulset", True, StatefulSet, ("sts",), ("all",), has_status=True
)
DAEMON_SET = Kind(
    "apps", "v1", "DaemonSet", "daemonsets", "daemonset", True, DaemonSet, ("ds",), ("all",), has_status=True
)
JOB = Kind("batch", "v1", "Job", "jobs", "job", True, Job, (), ("all",), has_status=True)
CRON_JOB = Kind("batch", "v1", "CronJob", "cronjobs", "cronjob", True, CronJob, ("cj",), ("all",), has_status=True)
SECRET = Kind("", "v1", "Secret", "secrets", "secret", True, Secret)
NETWORK_ATTACHMENT = Kind(
    "k8s.cni.cncf.io",
    "v1",
    "NetworkAttachmentDefinition",
    "network-attachment-definitions",
    "network-attachment-definition",
    True,
    NetworkAttachmentDefinition,
    ("net-attach-def",),
)
