"""What is special about pods: defaults, immutable parts, binding, and graceful deletion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from e2e.apiserver.errors import Cause, Obj, invalid

_DEFAULTS = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "serviceAccountName": "default",
    "enableServiceLinks": True,
}


def fill_new(pod: Obj) -> None:
    """Defaults of a new pod, in place, and the status that every pod starts with."""
    spec = pod.setdefault("spec", {})
    if isinstance(spec, dict):
        for name, value in _DEFAULTS.items():
            spec.setdefault(name, dict(value) if isinstance(value, dict) else value)
        for container in spec.get("containers") or []:
            container.setdefault("imagePullPolicy", "IfNotPresent")
            container.setdefault("terminationMessagePath", "/dev/termination-log")
            container.setdefault("resources", {})
    pod["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def violations(pod: Obj) -> list[Cause]:
    spec = pod.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    if not containers:
        return [Cause("FieldValueRequired", "Required value", "spec.containers")]
    return [
        Cause("FieldValueRequired", "Required value", f"spec.containers[{index}].{name}")
        for index, container in enumerate(containers)
        for name in ("name", "image")
        if not container.get(name)
    ]


def check_update(old: Obj, new: Obj) -> None:
    """Raises 422 when an update moves a pod to another node: only a binding places it, once."""
    before, after = old["spec"].get("nodeName", ""), new.get("spec", {}).get("nodeName", "")
    if before != after:
        why = "Forbidden: pod updates may not change fields other than the documented ones: spec.nodeName"
        raise invalid("", "Pod", old["metadata"]["name"], [Cause("FieldValueForbidden", why, "spec")])


def bound(pod: Obj, node: str, now: str) -> Obj:
    """The pod, placed on `node`."""
    status = dict(pod.get("status") or {})
    others = [one for one in status.get("conditions") or [] if one.get("type") != "PodScheduled"]
    status["conditions"] = [*others, {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}]
    return {**pod, "metadata": dict(pod["metadata"]), "spec": {**pod["spec"], "nodeName": node}, "status": status}


def grace_period(pod: Obj, requested: int | None) -> int:
    """Seconds until a deletion may complete; 0 removes the object at once. Pods that no kubelet runs have none."""
    if not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    wanted: int = pod["spec"].get("terminationGracePeriodSeconds", 30) if requested is None else requested
    return max(wanted, 0)


def terminating(metadata: Obj, grace_s: int) -> Obj:
    """Metadata of a pod that is to be gone in `grace_s`; a second deletion can only shorten the time."""
    previous = metadata.get("deletionGracePeriodSeconds")
    if previous is not None and previous <= grace_s:
        return metadata
    end = datetime.now(UTC) + timedelta(seconds=grace_s)
    stamp = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**metadata, "deletionTimestamp": stamp, "deletionGracePeriodSeconds": grace_s}
