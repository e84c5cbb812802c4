"""ValidatingAdmissionPolicies: what an agent may write, told by the node name that the API server put into its token.

RBAC cannot tell one object of a kind from another, or one lease of a block from the next. Without these policies one compromised node could take
every address of the cluster by writing blocks; with them it can write its own mailbox, its own leases and pins, and the records of its own pods.

What no rule about one object can decide is left to the agents, and said in docs/security.md: the policy sees neither pods nor the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from crds.nephila import GROUP as NEPHILA
from crds.spiderpool import GROUP as SPIDERPOOL

NAMESPACE = "nephila-system"
AGENT = "nephila-agent"
LEADER = "nephila-leader"
NODE_CLAIM = "authentication.kubernetes.io/node-name"


class PinTakeover(Enum):
    """When a node may take a pinned slot that another node's pod is written down to hold.

    `PROBED` (the protocol, design section 4.4): when the agent has found that pod gone from the API and the address silent, which no policy can
    check. `VACANT`: when the former node has emptied the pin, or the leader has taken the lease; a node that dies then keeps its pinned
    addresses until the leader's forced reclaim, and machines cannot migrate live, since their source holds the address meanwhile.
    """

    PROBED = "Probed"
    VACANT = "Vacant"


def account(name: str, namespace: str = NAMESPACE) -> str:
    """The user name of a service account."""
    return f"system:serviceaccount:{namespace}:{name}"


# "0-7,12" as x = [0, -7, 12]: a negative number ends the range that the number before it begins. Slot n is in the set if it is a member either
# way, or if the first number beyond it ends a range. The schema has refused every other text before a policy is asked.
_ORDINALS = f"[{', '.join(map(str, range(64)))}]"
_HOLDS = "(n in x || -n in x || [x.filter(i, i > n || -i > n)].exists(f, f.size() > 0 && f[0] < 0))"


def _numbers(text: str) -> str:
    return f"({text} == '' ? [] : {text}.replace('-', ',-').split(',').map(s, int(s)))"


def _slots(text: str, *, unless: str = "") -> str:
    """The ordinals that a text of slots names, as a list; those for which `unless` (about n) holds are left out."""
    return f"[{_numbers(text)}].map(x, {_ORDINALS}.filter(n, {_HOLDS}{f' && !({unless})' if unless else ''}))[0]"


def _spec(which: str, field: str, empty: str) -> str:
    """A field of the object before or after the request, or `empty` where there is none."""
    absent, target = ("CREATE", "oldObject") if which == "before" else ("DELETE", "object")
    return f"request.operation == '{absent}' || !has({target}.spec.{field}) ? {empty} : {target}.spec.{field}"


def _mine(leases: str) -> str:
    texts = f"{leases}.filter(l, l.node == variables.me).map(l, {_numbers('l.slots')})"
    return f"[{texts}].map(xs, {_ORDINALS}.filter(n, xs.exists(x, {_HOLDS})))[0]"


_ME = (
    f"has(request.userInfo.extra) && '{NODE_CLAIM}' in request.userInfo.extra && request.userInfo.extra['{NODE_CLAIM}'].size() == 1 "
    f"? request.userInfo.extra['{NODE_CLAIM}'][0] : ''"
)


def _rule(expression: str, message: str) -> dict[str, str]:
    return {"expression": expression, "message": message, "reason": "Forbidden"}


_KNOWN = _rule("variables.me != ''", "the token must name a node: it must be bound to a pod that runs on one")


def _unowned(kind: str) -> dict[str, str]:
    """An owner or finalizer would let somebody else's garbage collection decide about the object."""
    now = "(has(object.metadata.{0}) ? object.metadata.{0} : [])"
    before = "(request.operation == 'UPDATE' && has(oldObject.metadata.{0}) ? oldObject.metadata.{0} : [])"
    same = " && ".join(f"{now} == {before}".format(field) for field in ("ownerReferences", "finalizers"))
    return _rule(
        f"request.operation == 'DELETE' || ({same})", f"an agent must not set owners or finalizers of an {kind}"
    )


def _policy(
    name: str,
    group: str,
    resources: Sequence[str],
    variables: Sequence[tuple[str, str]],
    validations: Sequence[dict[str, str]],
) -> list[dict[str, Any]]:
    """The policy and its binding."""
    rule = {"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE", "DELETE"]}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{**rule, "resources": list(resources)}]},
            "matchConditions": [{"name": "agent", "expression": f"request.userInfo.username == '{account(AGENT)}'"}],
            "variables": [{"name": key, "expression": text} for key, text in (("me", _ME), *variables)],
            "validations": [_KNOWN, *validations],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny", "Audit"]},
    }
    return [policy, binding]


# IPBlock ----------------------------------------------------------------------------------------------------------------------------------

_BLOCK_VARIABLES = (
    ("leases", _spec("after", "leases", "[]")),
    ("leasesBefore", _spec("before", "leases", "[]")),
    ("pins", _spec("after", "pins", "[]")),
    ("pinsBefore", _spec("before", "pins", "[]")),
    ("cooling", _spec("after", "cooling", "[]")),
    ("coolingBefore", _spec("before", "cooling", "[]")),
    ("suspectText", _spec("after", "suspect", "''")),
    ("suspectTextBefore", _spec("before", "suspect", "''")),
    ("suspect", _slots("variables.suspectText")),
    ("suspectBefore", _slots("variables.suspectTextBefore")),
    ("mine", _mine("variables.leases")),
    ("mineBefore", _mine("variables.leasesBefore")),
)

_SAME_OWNER = " && ".join(f"q.owner.{field} == p.owner.{field}" for field in ("kind", "namespace", "name", "interface"))
_VACANT = "!has(p.holder)"
_MY_FORMER = "(has(p.holder) && p.holder.node == variables.me)"
# What a pod's end makes of its pin: nobody has it; the source of a failed migration has it again; the target has it alone.
_VACATED = f"{_MY_FORMER} && !has(q.source) && (!has(p.source) || p.source.node == variables.me)"
_REVERTED = f"({_MY_FORMER} && has(p.source) && q.holder == p.source && has(q.source) && q.source == p.source)"
_SOURCE_LEFT = (
    "(has(p.source) && p.source.node == variables.me && has(p.holder) && q.holder == p.holder && !has(q.source))"
)
_HELD_HERE = "(has(q.holder) && q.holder.node == variables.me)"
_LEASED_ELSEWHERE = (
    "variables.leasesBefore.exists(l, l.node != variables.me && "
    f"[{_numbers('l.slots')}].exists(x, [p.slot].exists(n, {_HOLDS})))"
)

# What does not depend on how pins are taken over.
_SAME_LEASE = "a.node == o.node && a.nodeUID == o.nodeUID"
_REST = _slots("o.slots", unless="n in variables.arriving")
_SHRUNK = (
    f"variables.arriving.size() > 0 && [{_REST}].exists(r, r.size() == 0 ? !variables.leases.exists(a, {_SAME_LEASE}) : "
    f"variables.leases.exists(a, {_SAME_LEASE} && sets.equivalent({_slots('a.slots')}, r)))"
)
_OTHERS = (
    "variables.leasesBefore.all(o, o.node == variables.me || variables.leases.exists(a, a == o) || "
    f"({_SHRUNK})) && variables.leases.all(a, a.node == variables.me || "
    f"variables.leasesBefore.exists(o, {_SAME_LEASE}))"
)
_PINNED = (
    "variables.mine.all(n, n in variables.mineBefore || !variables.pinsBefore.exists(p, p.slot == n) || "
    f"variables.pins.exists(q, q.slot == n && {_HELD_HERE}))"
)
_SUSPECT = (
    "variables.suspect.all(n, n in variables.suspectBefore) && "
    "variables.suspectBefore.all(n, n in variables.suspect || n in variables.mineBefore || n in variables.mine)"
)
# A rounded time must pass; a millisecond is more than any writer rounds by.
_KEPT = (
    "variables.coolingBefore.exists(c, timestamp(e.until) <= timestamp(c.until) + duration('1ms') && "
    f"[{_numbers('c.slots')}].exists(x, {_HOLDS}))"
)
_COOLING = (
    "variables.cooling.all(e, e in variables.coolingBefore || "
    f"{_slots('e.slots')}.all(n, n in variables.mineBefore || {_KEPT}))"
)
_TERM = "request.operation == 'DELETE' || object.spec.term == (request.operation == 'CREATE' ? 0 : oldObject.spec.term)"


def _block_rules(takeover: PinTakeover) -> tuple[tuple[tuple[str, str], ...], tuple[dict[str, str], ...]]:
    probed = takeover is PinTakeover.PROBED
    # A pod UID is never used twice, so a pin whose holder keeps its UID cannot have become free for another node.
    displaced = "q.holder.podUID != p.holder.podUID" if probed else f"!{_LEASED_ELSEWHERE}"
    available = f"({_VACANT} || {_MY_FORMER} || {displaced})"
    ended = f"({_VACANT} || {_MY_FORMER} || {'true' if probed else f'!{_LEASED_ELSEWHERE}'})"
    arrives = f"{_HELD_HERE} && variables.pinsBefore.exists(p, p.slot == q.slot && !{_MY_FORMER} && {_SAME_OWNER} && {available})"
    arriving = f"variables.pins.filter(q, {arrives}).map(q, q.slot)"

    taken = (
        f"q.holder.node == variables.me && q.slot in variables.mine && {available} && "
        "(!has(q.source) || (has(p.holder) && q.source == p.holder) || (has(p.source) && q.source == p.source)) && "
        "(!has(p.source) || has(q.source) || p.source.node == variables.me || "
        "!has(p.holder) || q.holder.podUID != p.holder.podUID)"
    )
    moved = f"{_SAME_OWNER} && (!has(q.holder) ? {_VACATED} : {taken} || {_REVERTED} || {_SOURCE_LEFT})"
    pins = (
        "variables.pinsBefore.all(p, variables.pins.exists(q, q.slot == p.slot) ? "
        f"variables.pins.exists(q, q.slot == p.slot && (q == p || ({moved}))) : {ended}) && "
        "variables.pins.all(q, variables.pinsBefore.exists(p, p.slot == q.slot) || "
        f"({_HELD_HERE} && q.slot in variables.mine))"
    )
    vacancy = "is vacant, its own, or whose pod it replaces" if probed else "is vacant, its own, or in no lease"
    validations = (
        _rule(_OTHERS, "an agent may change only its own node's leases, beyond a pinned slot that moves to it"),
        _rule(
            pins, f"an agent may pin slots of its own lease, vacate its own pins, and take or end a pin that {vacancy}"
        ),
        _rule(_PINNED, "a pinned slot may enter a lease only together with its pin"),
        _rule(_SUSPECT, "an agent may only clear suspect slots, and only those of its own lease"),
        _rule(_COOLING, "an agent may let only slots of its own lease cool down"),
        _rule(_TERM, "term is the leader's: an agent must not change it"),
        _unowned("IPBlock"),
    )
    return (*_BLOCK_VARIABLES, ("arriving", arriving)), validations


def block_policy(takeover: PinTakeover) -> list[dict[str, Any]]:
    """Own leases, own pins, own suspect marks."""
    variables, validations = _block_rules(takeover)
    return _policy("nephila-agent-ipblocks", NEPHILA, ("ipblocks", "ipblocks/*"), variables, validations)


# The others -------------------------------------------------------------------------------------------------------------------------------

_NODE_RULES = (
    _rule(
        "request.operation != 'DELETE'",
        "only the leader deletes a mailbox: its absence means that no lease of the node is left",
    ),
    _rule(
        "request.operation == 'DELETE' || object.metadata.name == variables.me",
        "an agent may write the IPNode of its own node only",
    ),
    _rule(
        "request.operation == 'DELETE' || (request.operation == 'UPDATE' ? object.spec == oldObject.spec : "
        "!has(object.spec.fence) && (!has(object.spec.recalls) || object.spec.recalls.size() == 0) && "
        "(!has(object.spec.offers) || object.spec.offers.size() == 0))",
        "spec is the leader's: an agent writes status only",
    ),
    _rule(
        "request.operation != 'UPDATE' || !has(object.status) || !has(object.status.clearedFence) || "
        "(has(oldObject.status) && has(oldObject.status.clearedFence) && "
        "oldObject.status.clearedFence == object.status.clearedFence) || "
        "(has(object.spec.fence) && object.spec.fence.id == object.status.clearedFence)",
        "an agent may clear only the fence mark that stands",
    ),
    _unowned("IPNode"),
)

_NODE_OF = "has({0}.status) && has({0}.status.current) && has({0}.status.current.node) ? {0}.status.current.node : ''"
_UID_OF = "has({0}.status) && has({0}.status.current) && has({0}.status.current.uid) ? {0}.status.current.uid : ''"
_ENDPOINT_VARIABLES = (
    ("node", f"request.operation == 'DELETE' ? variables.me : ({_NODE_OF.format('object')})"),
    ("nodeBefore", f"request.operation == 'CREATE' ? '' : ({_NODE_OF.format('oldObject')})"),
    ("uid", f"request.operation == 'DELETE' ? '' : ({_UID_OF.format('object')})"),
    ("uidBefore", f"request.operation == 'CREATE' ? '' : ({_UID_OF.format('oldObject')})"),
)
_ENDPOINT_RULES = (
    _rule("variables.node == variables.me", "an agent may write only SpiderEndpoints whose status names its own node"),
    _rule(
        "variables.nodeBefore in ['', variables.me] || (request.operation == 'UPDATE' && variables.uid != variables.uidBefore && "
        "(!has(oldObject.metadata.ownerReferences) || oldObject.metadata.ownerReferences.size() == 0))",
        "this SpiderEndpoint is another node's; only one that outlives its pod may be taken over, by a new pod",
    ),
)

_LOCK_RULES = (_rule("false", "only the leader's account writes a LeaderLock"),)


def policies() -> dict[str, list[dict[str, Any]]]:
    """The objects of each generated file, by the file's name without its ending."""
    return {
        "ipblocks": block_policy(PinTakeover.PROBED),
        "ipblocks-vacant": block_policy(PinTakeover.VACANT),
        "ipnodes": _policy("nephila-agent-ipnodes", NEPHILA, ("ipnodes", "ipnodes/*"), (), _NODE_RULES),
        "leaderlocks": _policy("nephila-agent-leaderlocks", NEPHILA, ("leaderlocks", "leaderlocks/*"), (), _LOCK_RULES),
        "spiderendpoints": _policy(
            "nephila-agent-spiderendpoints",
            SPIDERPOOL,
            ("spiderendpoints", "spiderendpoints/*"),
            _ENDPOINT_VARIABLES,
            _ENDPOINT_RULES,
        ),
    }
