"""Selection invariants: nothing named is lost, order is rank then list, and nothing else decides."""

import json
from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.addresses import Family, Network
from ipam.annotations import IPPOOL
from ipam.catalog import Catalog
from ipam.errors import NoPoolMatches, Refusal
from ipam.facts import Features, NicFacts, PodFacts
from ipam.pools import Pool
from ipam.ranges import RangeSet
from ipam.selection import Selection, select
from ipam.selectors import LabelSelector

quick = settings(max_examples=150, deadline=None)
SUBNETS = {Family.V4: Network.parse("10.0.0.0/24"), Family.V6: Network.parse("fd00::/64")}
FEATURES = Features()
NIC = NicFacts(nad="kube-system/vlan10")

selectors = st.sampled_from([None, None, LabelSelector.of({"app": "web"}), LabelSelector.of({"app": "db"})])


@st.composite
def pools(draw: st.DrawFn, name: str) -> Pool:
    family = draw(st.sampled_from([Family.V4, Family.V4, Family.V4, Family.V6]))
    return Pool(
        name=name,
        family=family,
        subnet=SUBNETS[family],
        ips=RangeSet.empty(family),
        exclude=RangeSet.empty(family),
        pod_affinity=draw(selectors),
        node_affinity=draw(selectors),
        namespace_affinity=draw(selectors),
        node_names=draw(st.sampled_from([(), (), ("n1",), ("n2",)])),
        namespace_names=draw(st.sampled_from([(), (), ("default",), ("other",)])),
        multus_names=draw(st.sampled_from([(), (), ("vlan10",), ("vlan20",)])),
        disable=draw(st.integers(0, 9)) == 0,
        deleting=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Pool], list[str]]:
    names = [f"{letter}{index}" for letter in "ab" for index in range(draw(st.integers(1, 4)))]
    made = [draw(pools(name)) for name in names]
    listed = draw(
        st.lists(st.sampled_from([*names, "a*", "b?", "*1", "[^a]*", "z*"]), min_size=1, max_size=6, unique=True)
    )
    return made, listed


def pod(listed: list[str]) -> PodFacts:
    return PodFacts(
        namespace="default",
        name="web-0",
        uid="u",
        node="n1",
        labels={"app": "web"},
        node_labels={"app": "web"},
        namespace_labels={"app": "web"},
        annotations={IPPOOL: json.dumps({"ipv4": listed})},
    )


def outcome(made: list[Pool], listed: list[str]) -> tuple[tuple[str, ...], tuple[Refusal, ...]]:
    try:
        answer: Selection = select(pod(listed), NIC, Catalog(made), FEATURES)
    except NoPoolMatches as error:
        return (), error.refused
    assert set(answer.candidates) == {Family.V4}
    return answer.candidates[Family.V4], answer.refused


def in_listed_order(made: list[Pool], listed: list[str]) -> list[str]:
    """The names that the list stands for, by the definition and without the catalogue."""
    v4 = sorted(pool.name for pool in made if pool.family is Family.V4)
    patterns: dict[str, Callable[[str], bool]] = {
        "a*": lambda name: name[0] == "a",
        "b?": lambda name: name[0] == "b",
        "*1": lambda name: name[-1] == "1",
        "[^a]*": lambda name: name[0] != "a",
        "z*": lambda name: False,
    }
    stands_for: list[str] = []
    for item in listed:
        stands_for += [name for name in v4 if patterns[item](name)] if item in patterns else [item]
    return list(dict.fromkeys(stands_for))


@quick
@given(clusters())
def test_every_named_pool_is_a_candidate_or_refused_with_a_reason(cluster: tuple[list[Pool], list[str]]) -> None:
    made, listed = cluster
    candidates, refused = outcome(made, listed)
    refused_pools = [refusal.pool for refusal in refused if not {"*", "?", "["} & set(refusal.pool)]
    assert sorted((*candidates, *refused_pools)) == sorted(in_listed_order(made, listed))
    assert all(refusal.reason for refusal in refused)


@quick
@given(clusters())
def test_order_is_rank_then_the_listed_order(cluster: tuple[list[Pool], list[str]]) -> None:
    made, listed = cluster
    candidates, _ = outcome(made, listed)
    by_name = {pool.name: pool for pool in made}
    position = {name: index for index, name in enumerate(in_listed_order(made, listed))}

    def expected(name: str) -> tuple[bool, bool, bool, bool, bool, bool, int]:
        pool = by_name[name]
        return (
            pool.pod_affinity is None,
            not pool.node_names,
            pool.node_affinity is None,
            not pool.namespace_names,
            pool.namespace_affinity is None,
            not pool.multus_names,
            position[name],
        )

    assert list(candidates) == sorted(candidates, key=expected)


@quick
@given(clusters(), st.randoms(use_true_random=False))
def test_the_order_in_which_pools_become_known_decides_nothing(
    cluster: tuple[list[Pool], list[str]], random: Random
) -> None:
    made, listed = cluster
    shuffled = list(made)
    random.shuffle(shuffled)
    assert outcome(shuffled, listed) == outcome(made, listed)


@quick
@given(clusters())
def test_a_pool_that_is_not_named_changes_nothing(cluster: tuple[list[Pool], list[str]]) -> None:
    made, listed = cluster
    named = {*in_listed_order(made, listed)}
    assert outcome([pool for pool in made if pool.name in named], listed) == outcome(made, listed)
