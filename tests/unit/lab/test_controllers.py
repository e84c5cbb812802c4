"""The lab's controllers, against an API server that is a dict: actions are applied until none is left."""

import itertools

from e2e.lab.controllers import Bind, Count, Create, Delete, Scale, View, fits, plan
from e2e.lab.objects import Key, Object, key_of, name_of, node_of, uid_of


class World:
    """Applies the actions at once; pods become Running when `run_pods` says so."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[Key, Object]] = {
            kind: {} for kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "Pod", "Node")
        }
        self.uids = (f"uid-{number}" for number in itertools.count(1))
        self.suffixes = (f"{number:05d}" for number in itertools.count(1))
        self.most_pods = 0

    def add(self, thing: Object) -> Object:
        thing["metadata"].setdefault("namespace", "")
        thing["metadata"]["uid"] = next(self.uids)
        thing["metadata"]["creationTimestamp"] = thing["metadata"]["uid"].zfill(20)
        self.kinds[thing["kind"]][key_of(thing)] = thing
        return thing

    def plan(self) -> list[object]:
        kinds = self.kinds
        view = View(
            kinds["Deployment"],
            kinds["ReplicaSet"],
            kinds["StatefulSet"],
            kinds["Pod"],
            kinds["Node"],
            kinds["DaemonSet"],
            kinds["Job"],
        )
        return list(plan(view, lambda: next(self.suffixes)))

    def step(self) -> int:
        actions = self.plan()
        for action in actions:
            match action:
                case Create(_, new):
                    assert key_of(new) not in self.kinds[new["kind"]]
                    self.add(new)
                case Delete(kind, key):
                    self.kinds[kind].pop(key, None)
                case Scale(key, replicas):
                    self.kinds["ReplicaSet"][key]["spec"]["replicas"] = replicas
                case Count(key, desired):
                    self.kinds["DaemonSet"][key]["status"] = {"desiredNumberScheduled": desired}
                case Bind(key, node):
                    self.kinds["Pod"][key]["spec"]["nodeName"] = node
        self.most_pods = max(self.most_pods, len(self.kinds["Pod"]))
        return len(actions)

    def settle(self) -> None:
        for _ in range(200):
            moved = self.step()
            for pod in self.kinds["Pod"].values():
                if node_of(pod) and "status" not in pod:
                    pod["status"] = {"phase": "Running"}
                    moved += 1
            if not moved:
                return
        raise AssertionError("never quiet")

    def pods(self) -> list[str]:
        return sorted(name_of(pod) for pod in self.kinds["Pod"].values())


def nodes(world: World, *names: str) -> None:
    for name in names:
        world.add({"kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}})


def workload(kind: str, replicas: int, **spec: object) -> Object:
    template = {
        "metadata": {"labels": {"app": "x"}, "annotations": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    return {
        "kind": kind,
        "apiVersion": "apps/v1",
        "metadata": {"name": "x", "namespace": "ns"},
        "spec": {"replicas": replicas, "template": template, **spec},
    }


def test_a_deployment_owns_its_pods_through_a_replica_set() -> None:
    world = World()
    nodes(world, "n1", "n2", "n3")
    deployment = world.add(workload("Deployment", 6))
    world.settle()
    (replica_set,) = world.kinds["ReplicaSet"].values()
    assert replica_set["metadata"]["ownerReferences"][0]["uid"] == uid_of(deployment)
    pods = list(world.kinds["Pod"].values())
    assert len(pods) == 6
    assert {pod["metadata"]["ownerReferences"][0]["uid"] for pod in pods} == {uid_of(replica_set)}
    assert all(pod["metadata"]["annotations"] == {"a": "b"} for pod in pods)
    assert sorted(node_of(pod) for pod in pods) == ["n1", "n1", "n2", "n2", "n3", "n3"]


def test_scaling_down_removes_pods_that_do_not_run_first() -> None:
    world = World()
    nodes(world, "n1")
    deployment = world.add(workload("Deployment", 3))
    world.settle()
    stuck = world.pods()[0]
    world.kinds["Pod"]["ns", stuck]["status"] = {"phase": "Pending"}
    deployment["spec"]["replicas"] = 2
    world.step()
    world.step()
    assert stuck not in world.pods() and len(world.pods()) == 2


def test_a_rolling_update_keeps_within_surge_and_ends_with_new_pods_only() -> None:
    world = World()
    nodes(world, "n1", "n2")
    deployment = world.add(workload("Deployment", 8, strategy={"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}))
    world.settle()
    before = world.pods()
    deployment["spec"]["template"]["metadata"]["annotations"] = {"a": "c"}
    world.settle()
    assert world.most_pods <= 10
    assert len(world.pods()) == 8 and not set(before) & set(world.pods())


def test_an_ordered_stateful_set_starts_one_pod_at_a_time() -> None:
    world = World()
    nodes(world, "n1")
    world.add(workload("StatefulSet", 3))
    world.step()
    assert world.pods() == ["x-0"]
    world.step()
    assert world.pods() == ["x-0"], "x-0 does not run yet"
    world.settle()
    assert world.pods() == ["x-0", "x-1", "x-2"]


def test_a_parallel_stateful_set_starts_all_and_respects_its_first_ordinal() -> None:
    world = World()
    nodes(world, "n1")
    world.add(workload("StatefulSet", 2, podManagementPolicy="Parallel", ordinals={"start": 5}))
    world.step()
    assert world.pods() == ["x-5", "x-6"]


def test_a_stateful_set_shrinks_from_the_highest_ordinal() -> None:
    world = World()
    nodes(world, "n1")
    stateful_set = world.add(workload("StatefulSet", 3))
    world.settle()
    stateful_set["spec"]["replicas"] = 1
    world.step()
    assert world.pods() == ["x-0", "x-1"]


def test_what_a_deleted_owner_left_behind_is_collected() -> None:
    world = World()
    nodes(world, "n1")
    world.add(workload("Deployment", 2))
    world.settle()
    world.kinds["Deployment"].clear()
    world.settle()
    assert not world.pods() and not world.kinds["ReplicaSet"]


def test_a_pod_goes_only_where_selector_cordon_and_taints_allow() -> None:
    pod: Object = {"metadata": {}, "spec": {"nodeSelector": {"rack": "a"}}}
    node: Object = {"metadata": {"name": "n", "labels": {"rack": "a"}}, "spec": {}}
    assert fits(pod, node)
    assert not fits(pod, {**node, "metadata": {"name": "n", "labels": {"rack": "b"}}})
    assert not fits(pod, {**node, "spec": {"unschedulable": True}})
    assert not fits(pod, {**node, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})


def test_a_daemon_set_has_one_pod_on_each_node_that_it_fits() -> None:
    world = World()
    nodes(world, "n1", "n2", "n3")
    daemon_set = world.add(workload("DaemonSet", 0))
    world.settle()
    pods = list(world.kinds["Pod"].values())
    assert sorted(node_of(pod) for pod in pods) == ["n1", "n2", "n3"]
    assert daemon_set["status"] == {"desiredNumberScheduled": 3}
    world.kinds["Node"]["", "n2"]["spec"]["unschedulable"] = True
    world.settle()
    assert sorted(node_of(pod) for pod in world.kinds["Pod"].values()) == ["n1", "n3"]
    world.kinds["DaemonSet"].clear()
    world.settle()
    assert world.pods() == []


def test_a_job_keeps_as_many_pods_as_run_at_once() -> None:
    world = World()
    nodes(world, "n1", "n2")
    world.add(workload("Job", 0, parallelism=3))
    world.settle()
    assert len(world.pods()) == 3
    owner = next(iter(world.kinds["Pod"].values()))["metadata"]["ownerReferences"][0]
    assert (owner["apiVersion"], owner["kind"]) == ("batch/v1", "Job")
