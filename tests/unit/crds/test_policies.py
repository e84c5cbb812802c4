"""Policies and roles as data; what they do is tried on a real API server (tests/cluster/test_security.py)."""

from __future__ import annotations

from crds.models import KINDS
from crds.policies import AGENT, LEADER, PinTakeover, account, block_policy, policies
from crds.roles import RULES
from e2e.cluster.attempts import By, block_attempts, other_attempts


def test_every_policy_fails_closed_for_every_version_and_is_bound() -> None:
    for name, (policy, binding) in policies().items():
        spec = policy["spec"]
        assert spec["failurePolicy"] == "Fail", name
        [rule] = spec["matchConstraints"]["resourceRules"]
        assert rule["apiVersions"] == ["*"]
        assert set(rule["operations"]) == {"CREATE", "UPDATE", "DELETE"}
        assert [resource.endswith("/*") for resource in rule["resources"]] == [False, True]
        assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny", "Audit"]}
        assert account(AGENT) in spec["matchConditions"][0]["expression"]


def test_every_rule_of_a_policy_has_an_attempt_that_it_refuses() -> None:
    tried = [attempt.says for attempt in (*block_attempts(), *other_attempts()) if attempt.by is By.POLICY]
    covered = {
        # RBAC refuses these first; they are tried without it.
        "only the leader deletes a mailbox: its absence means that no lease of the node is left",
        "spec is the leader's: an agent writes status only",
        "only the leader's account writes a LeaderLock",
        # The same rule as for an IPBlock.
        "an agent must not set owners or finalizers of an IPNode",
    }
    for name, (policy, _) in policies().items():
        if name == "ipblocks-vacant":
            continue
        for rule in policy["spec"]["validations"]:
            assert rule["message"] in covered or any(says in rule["message"] for says in tried if says), rule["message"]


def test_the_stricter_policy_differs_only_in_who_may_take_a_pin() -> None:
    loose, strict = (block_policy(takeover)[0]["spec"] for takeover in PinTakeover)
    differing = [a["message"] for a, b in zip(loose["validations"], strict["validations"], strict=True) if a != b]
    assert len(differing) == 1
    assert "pin" in differing[0]


def test_roles_name_kinds_that_exist_and_give_no_wildcards() -> None:
    known = {(kind.group, kind.plural) for kind in KINDS}
    for rules in RULES.values():
        for rule in rules:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            for resource in rule["resources"]:
                assert (rule["apiGroups"][0], resource.split("/")[0]) in known, resource


def test_only_the_leader_may_write_its_lock_and_only_agents_may_beat() -> None:
    def may(name: str, resource: str) -> set[str]:
        return {verb for rule in RULES[name] if resource in rule["resources"] for verb in rule["verbs"]} - {
            "get",
            "list",
            "watch",
        }

    assert may(AGENT, "leaderlocks") == may(LEADER, "ipnodes/status") == set()
    assert may(AGENT, "ipnodes") == {"create"}
