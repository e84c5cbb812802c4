import pytest

from ipam.errors import OwnerMissing
from ipam.owners import OwnerNeeded, OwnerReference, TopOwner, is_wanted_ordinal, ordinal, top_owner

POD = TopOwner("v1", "Pod", "default", "web-1", "pod-uid")


def controlled_by(api_version: str, kind: str, name: str = "x") -> list[OwnerReference]:
    return [
        OwnerReference("v1", "ConfigMap", "aside", "c"),
        OwnerReference(api_version, kind, name, "u", controller=True),
    ]


def test_a_bare_pod_is_its_own_top() -> None:
    assert top_owner(POD, [], {}) == POD
    assert top_owner(POD, [OwnerReference("v1", "Node", "n", "u")], {}) == POD
    assert POD.is_bare_pod
    assert not POD.is_third_party


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "Deployment"),
        ("batch/v1", "CronJob"),
        ("kruise.io/v1beta1", "StatefulSet"),
        ("example.com/v1", "ReplicaSet"),
    ],
)
def test_other_controllers_are_the_top_without_a_question(api_version: str, kind: str) -> None:
    assert top_owner(POD, controlled_by(api_version, kind), {}) == TopOwner(api_version, kind, "default", "x", "u")


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        (("apps/v1", "ReplicaSet"), ("apps/v1", "Deployment")),
        (("batch/v1", "Job"), ("batch/v1", "CronJob")),
        (("batch/v1", "Job"), ("batch/v1beta1", "CronJob")),
    ],
)
def test_replica_sets_and_jobs_lead_to_their_owner(child: tuple[str, str], parent: tuple[str, str]) -> None:
    references = controlled_by(*child)
    asked = top_owner(POD, references, {})
    owner = TopOwner(*child, "default", "x", "u")
    assert asked == OwnerNeeded(owner)
    assert top_owner(POD, references, {"u": controlled_by(*parent, "app")}) == TopOwner(*parent, "default", "app", "u")
    assert top_owner(POD, references, {"u": []}) == owner
    assert top_owner(POD, references, {"u": controlled_by("argoproj.io/v1alpha1", "Rollout")}) == owner


def test_a_missing_owner_fails_the_request() -> None:
    with pytest.raises(OwnerMissing, match="ReplicaSet default/x"):
        top_owner(POD, controlled_by("apps/v1", "ReplicaSet"), {"u": None})


def test_owner_kinds() -> None:
    native = TopOwner("apps/v1", "StatefulSet", "d", "x", "u")
    foreign = TopOwner("kruise.io/v1beta1", "StatefulSet", "d", "x", "u")
    assert native.is_stateful_set
    assert not native.is_third_party
    assert not foreign.is_stateful_set
    assert foreign.is_third_party
    assert (foreign.group, foreign.version) == ("kruise.io", "v1beta1")
    assert (POD.group, POD.version) == ("", "v1")


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("web-0", ("web", 0)),
        ("web-1-12", ("web-1", 12)),
        ("web", None),
        ("web-", None),
        ("web-1a", None),
        ("-3", ("", 3)),
        ("web-007", ("web", 7)),
        ("web-1\n", None),
    ],
)
def test_ordinals(name: str, spelled: tuple[str, int] | None) -> None:
    assert ordinal(name) == spelled


@pytest.mark.parametrize(
    ("name", "start", "replicas", "wanted"),
    [
        ("web-0", 0, 1, True),
        ("web-1", 0, 1, False),
        ("web-4", 5, 3, False),
        ("web-5", 5, 3, True),
        ("web-7", 5, 3, True),
        ("web-8", 5, 3, False),
        ("db-0", 0, 1, False),
        ("web", 0, 1, False),
    ],
)
def test_only_ordinals_within_the_sets_size_are_wanted(name: str, start: int, replicas: int, *, wanted: bool) -> None:
    assert is_wanted_ordinal(name, set_name="web", start=start, replicas=replicas) is wanted
