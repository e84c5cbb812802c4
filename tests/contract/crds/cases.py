"""What the API server accepts and refuses of Nephila's own kinds, as data: every CEL rule has a case on each side.

`Case.old` is what is stored before (created first, and then replaced by `new`); None: `new` is created. `refused` is a part of the message,
empty if the object is accepted. The names of objects matter for IPBlock only. That no rule is forgotten is a test of its own (test_rules.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from crds import nephila, spiderpool
from crds.meta import Kind
from crds.rules import MAX_RANGES, MAX_ROUTES

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    kind: Kind[Any]
    why: str
    new: Json
    old: Json | None = None
    refused: str = ""
    name: str = "case"
    subresource: str = ""  # `new` is written there, over `old`

    @property
    def id(self) -> str:
        return f"{self.kind.kind}-{self.why.replace(' ', '-')}"


def pool(**spec: Any) -> Json:
    return {"spec": {"subnet": "10.6.0.0/16", **spec}}


def v6_pool(**spec: Any) -> Json:
    return {"spec": {"subnet": "fd00:6::/64", **spec}}


def many(count: int) -> list[str]:
    """Ranges of the longest text; the rules' run-time budget must suffice for them."""
    return [
        f"fd00:0006:0000:0000:1000:1000:{n:04x}:1000-fd00:0006:0000:0000:1000:1000:{n:04x}:1fff" for n in range(count)
    ]


def route(number: int) -> Json:
    return {"dst": f"172.16.{number}.0/24", "gw": "10.6.0.2"}


def _pool(why: str, new: Json, old: Json | None = None, refused: str = "") -> Case:
    return Case(spiderpool.IP_POOL, why, new, old, refused)


NOT_A_RANGE = "must be one IP address"
INSIDE = "must lie inside subnet"

POOLS = (
    _pool("only a subnet", pool()),
    _pool(
        "everything",
        pool(
            ipVersion=4,
            ips=["10.6.168.101-10.6.168.110", "10.6.168.120"],
            excludeIPs=["10.6.168.105"],
            gateway="10.6.0.1",
            routes=[{"dst": "10.7.0.0/16", "gw": "10.6.0.2"}, {"dst": "10.8.0.0/16", "gw": "10.6.0.2"}],
            podAffinity={"matchLabels": {"app": "web"}},
            namespaceAffinity={"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]},
            namespaceName=["default"],
            nodeAffinity={"matchExpressions": [{"key": "gpu", "operator": "Exists"}]},
            nodeName=["node1"],
            multusName=["kube-system/macvlan-conf", "macvlan-conf"],
            default=True,
            disable=False,
        ),
    ),
    _pool("IPv6", v6_pool(ipVersion=6, ips=["fd00:6::5", "fd00:6::10-fd00:6::ff"], gateway="fd00:6::1")),
    _pool("IPv4 ends in order by number, not by text", pool(ips=["10.6.0.9-10.6.0.10", "10.6.0.250-10.6.1.2"])),
    _pool("a range of one address", pool(ips=["10.6.0.9-10.6.0.9"])),
    _pool("as many items as there may be", v6_pool(ips=many(MAX_RANGES), excludeIPs=many(MAX_RANGES))),
    _pool("too many items", v6_pool(ips=many(MAX_RANGES + 1)), refused="must have at most"),
    _pool("as many routes as there may be", pool(routes=[route(i) for i in range(MAX_ROUTES)])),
    _pool("subnet not a CIDR", {"spec": {"subnet": "10.6.0.0"}}, refused="must be a CIDR"),
    _pool("subnet with host bits", {"spec": {"subnet": "10.6.0.1/16"}}, refused="network form"),
    _pool("no subnet", {"spec": {"ips": ["10.6.0.1"]}}, refused="Required value"),
    _pool("ipVersion of the other family", pool(ipVersion=6), refused="ipVersion must be the family of subnet"),
    _pool("ipVersion 5", pool(ipVersion=5), refused="Unsupported value"),
    _pool("item not an address", pool(ips=["10.6.0.300"]), refused=NOT_A_RANGE),
    _pool("item a CIDR", pool(ips=["10.6.0.0/24"]), refused=NOT_A_RANGE),
    _pool("item with a short end", pool(ips=["10.6.0.5-9"]), refused=NOT_A_RANGE),
    _pool("item with two dashes", pool(ips=["10.6.0.5-10.6.0.6-10.6.0.7"]), refused=NOT_A_RANGE),
    _pool("item with a missing start", pool(ips=["-10.6.0.5"]), refused=NOT_A_RANGE),
    _pool("item of two families", pool(ips=["10.6.0.5-fd00::1"]), refused="of one family"),
    _pool("item reversed", pool(ips=["10.6.0.10-10.6.0.9"]), refused="must not be above its end"),
    _pool("item outside subnet", pool(ips=["10.6.0.5", "10.7.0.1"]), refused=f"ips {INSIDE}"),
    _pool("start outside subnet", pool(ips=["10.5.255.255-10.6.0.1"]), refused=f"ips {INSIDE}"),
    _pool("end outside subnet", pool(ips=["10.6.255.255-10.7.0.1"]), refused=f"ips {INSIDE}"),
    _pool("IPv6 item in an IPv4 subnet", pool(ips=["fd00::1"]), refused=f"ips {INSIDE}"),
    _pool("excluded item outside subnet", pool(excludeIPs=["10.7.0.1"]), refused=f"excludeIPs {INSIDE}"),
    _pool("excluded item malformed", pool(excludeIPs=["10.6.0"]), refused=NOT_A_RANGE),
    _pool("excluded item of two families", pool(excludeIPs=["10.6.0.5-fd00::1"]), refused="of one family"),
    _pool("excluded item reversed", pool(excludeIPs=["10.6.0.9-10.6.0.5"]), refused="must not be above its end"),
    _pool("gateway outside subnet", pool(gateway="10.7.0.1"), refused=f"gateway {INSIDE}"),
    _pool("gateway not an address", pool(gateway="router"), refused="must be an IP address"),
    _pool("default route", pool(routes=[{"dst": "0.0.0.0/0", "gw": "10.6.0.2"}]), refused="specify gateway instead"),
    _pool(
        "IPv6 default route", v6_pool(routes=[{"dst": "::/0", "gw": "fd00:6::2"}]), refused="specify gateway instead"
    ),
    _pool("dst not a CIDR", pool(routes=[{"dst": "10.7.0.0", "gw": "10.6.0.2"}]), refused="dst must be a CIDR"),
    _pool("gw not an address", pool(routes=[{"dst": "10.7.0.0/16", "gw": "x"}]), refused="gw must be an IP address"),
    _pool(
        "gw outside subnet", pool(routes=[{"dst": "10.7.0.0/16", "gw": "10.8.0.1"}]), refused="must lie inside subnet"
    ),
    _pool("dst and gw of two families", pool(routes=[{"dst": "fd00::/64", "gw": "10.6.0.2"}]), refused="of one family"),
    _pool(
        "dst twice",
        pool(routes=[{"dst": "10.7.0.0/16", "gw": "10.6.0.2"}, {"dst": "10.7.0.0/16", "gw": "10.6.0.3"}]),
        refused="Duplicate value",
    ),
    _pool("route without gw", pool(routes=[{"dst": "10.7.0.0/16"}]), refused="Required value"),
    _pool("empty podAffinity", pool(podAffinity={}), refused="podAffinity must not be empty"),
    _pool("empty nodeAffinity", pool(nodeAffinity={})),
    _pool(
        "In without values",
        pool(nodeAffinity={"matchExpressions": [{"key": "a", "operator": "In"}]}),
        refused="In and NotIn need values",
    ),
    _pool(
        "Exists with values",
        pool(nodeAffinity={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
        refused="In and NotIn need values",
    ),
    *(
        _pool(
            f"In without values in {where}",
            pool(**{where: {"matchExpressions": [{"key": "a", "operator": "NotIn"}]}}),
            refused="In and NotIn need values",
        )
        for where in ("podAffinity", "namespaceAffinity")
    ),
    _pool(
        "unknown operator",
        pool(nodeAffinity={"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]}),
        refused="Unsupported value",
    ),
    _pool("addresses added", pool(ips=["10.6.0.5-10.6.0.9"]), pool(ips=["10.6.0.5"])),
    _pool("ipVersion filled in", pool(ipVersion=4), pool()),
    _pool("ipVersion left out again", pool(), pool(ipVersion=4)),
    _pool("subnet changed", {"spec": {"subnet": "10.7.0.0/16"}}, pool(), refused="subnet is not changeable"),
    _pool("subnet widened", {"spec": {"subnet": "10.0.0.0/8"}}, pool(), refused="subnet is not changeable"),
    _pool("ipVersion changed", pool(ipVersion=6), pool(ipVersion=4), refused="ipVersion is not changeable"),
    _pool("removed field vlan", {"spec": {"subnet": "10.6.0.0/16", "vlan": 0}}),
)

ALIKE = {"subnet", "ipVersion", "ips", "excludeIPs", "gateway", "routes"}
# What a Subnet has in common with a pool is judged alike.
SUBNETS = tuple(
    replace(case, kind=spiderpool.SUBNET)
    for case in POOLS
    if {*case.new["spec"], *(case.old["spec"] if case.old else ())} <= ALIKE
)


def _reserved(why: str, new: Json, old: Json | None = None, refused: str = "") -> Case:
    return Case(spiderpool.RESERVED_IP, why, {"spec": new}, None if old is None else {"spec": old}, refused)


RESERVED = (
    _reserved("IPv4", {"ips": ["10.6.0.1-10.6.0.9", "192.168.1.1"]}),
    _reserved("IPv6 with version", {"ipVersion": 6, "ips": ["fd00::1"]}),
    _reserved("malformed", {"ips": ["10.6.0.0/24"]}, refused=NOT_A_RANGE),
    _reserved("reversed", {"ips": ["10.6.0.9-10.6.0.1"]}, refused="must not be above its end"),
    _reserved("item of two families", {"ips": ["10.6.0.1-fd00::1"]}, refused="both ends of a range"),
    _reserved("two families", {"ips": ["10.6.0.1", "fd00::1"]}, refused="of one family"),
    _reserved("version of the other family", {"ipVersion": 6, "ips": ["10.6.0.1"]}, refused="of one family"),
    _reserved("more addresses", {"ips": ["10.6.0.1", "10.6.0.2"]}, {"ips": ["10.6.0.1"]}),
    _reserved("version filled in", {"ipVersion": 4, "ips": ["10.6.0.1"]}, {"ips": ["10.6.0.1"]}),
    _reserved("version changed", {"ipVersion": 6}, {"ipVersion": 4}, refused="ipVersion is not changeable"),
    _reserved("family changed", {"ips": ["fd00::1"]}, {"ips": ["10.6.0.1"]}, refused="ipVersion is not changeable"),
)

ENDPOINT_STATUS: Json = {
    "current": {"uid": "u", "node": "n", "ips": [{"interface": "eth0", "ipv4": "10.6.0.5/16", "ipv4Pool": "p"}]},
    "ownerControllerType": "Deployment",
    "ownerControllerName": "web",
}
OTHERS = (
    Case(spiderpool.ENDPOINT, "status without subresource", {"status": ENDPOINT_STATUS}),
    Case(
        spiderpool.ENDPOINT,
        "status without owner",
        {"status": {"current": ENDPOINT_STATUS["current"]}},
        refused="Required value",
    ),
    Case(spiderpool.COORDINATOR, "any field", {"spec": {"mode": "auto", "detectOptions": {"retries": 3}}}),
    Case(spiderpool.MULTUS_CONFIG, "any field", {"spec": {"cniType": "macvlan", "macvlan": {"master": ["eth0"]}}}),
)

NAME = "ip4-10-6-0-64"
V6_NAME = "ip6-fd00-0-0-0-0-0-0-40"
LEASE: Json = {"node": "n1", "nodeUID": "u1", "slots": "0-7,12", "epoch": 10}
OTHER_LEASE: Json = {"node": "n2", "nodeUID": "u2", "slots": "8-11,13-63", "epoch": 10}


def block(page: str = "10.6.0.64/26", epoch: int = 10, term: int = 3, **spec: Any) -> Json:
    return {"spec": {"page": page, "epoch": epoch, "term": term, **spec}}


def _block(why: str, new: Json, old: Json | None = None, refused: str = "", name: str = NAME) -> Case:
    return Case(nephila.IP_BLOCK, why, new, old, refused, name)


def _lease(slots: str) -> Json:
    return {"node": "n2", "nodeUID": "u2", "slots": slots, "epoch": 10}


BLOCKS = (
    _block("empty", block()),
    _block(
        "full",
        block(leases=[LEASE, OTHER_LEASE], suspect="3,9", cooling=[{"slots": "4-6", "until": "2026-11-22T10:00:00Z"}]),
    ),
    _block(
        "64 leases",
        block(
            leases=[{"node": f"{i}{'n' * 250}", "nodeUID": "u" * 64, "slots": str(i), "epoch": 10} for i in range(64)]
        ),
    ),
    _block(
        "alternating slots",
        block(
            leases=[
                {**LEASE, "slots": ",".join(map(str, range(0, 64, 2)))},
                _lease(",".join(map(str, range(1, 64, 2)))),
            ]
        ),
    ),
    _block("with a domain", block(domain="rack-1.a"), name=f"{NAME}.rack-1.a"),
    _block("IPv6", block("fd00::40/122"), name=V6_NAME),
    _block("IPv6 with a domain", block("fd00::40/122", domain="rack.1"), name=f"{V6_NAME}.rack.1"),
    _block("page of 128", block("10.6.0.0/25"), refused="must be a /26 or a /122", name="ip4-10-6-0-0"),
    _block(
        "IPv6 page of 32 bits", block("fd00::/26"), refused="must be a /26 or a /122", name="ip6-fd00-0-0-0-0-0-0-0"
    ),
    _block("page not aligned", block("10.6.0.65/26"), refused="must be a /26 or a /122", name="ip4-10-6-0-65"),
    _block("name of another page", block(), refused="name must be that of the page", name="ip4-10-6-0-0"),
    _block("name with zeros in front", block(), refused="name must be that of the page", name="ip4-10-06-0-64"),
    _block("name without the domain", block(domain="a"), refused="name must be that of the page"),
    _block("name of another domain", block(domain="a"), refused="name must be that of the page", name=f"{NAME}.b"),
    _block("name with a domain too many", block(), refused="name must be that of the page", name=f"{NAME}.a"),
    _block("IPv6 name with a short form", block("fd00::40/122"), refused="name must be that", name="ip6-fd00--40"),
    _block(
        "IPv6 name with zeros in front",
        block("fd00::40/122"),
        refused="name must be that",
        name="ip6-fd00-0-0-0-0-0-0-0040",
    ),
    _block(
        "IPv6 name with an IPv4 end",
        block("fd00::40/122"),
        refused="name must be that",
        name="ip6-fd00-0-0-0-0-0-0.0.0.64",
    ),
    _block("slots malformed", block(leases=[{**LEASE, "slots": "0-64"}]), refused="should match"),
    _block("lease without slots", block(leases=[{**LEASE, "slots": ""}]), refused="should be at least 1"),
    _block("slots descending", block(leases=[{**LEASE, "slots": "12,0-7"}]), refused="ascending and disjoint"),
    _block("range reversed", block(leases=[{**LEASE, "slots": "7-0"}]), refused="ascending and disjoint"),
    _block("slot named twice", block(leases=[{**LEASE, "slots": "0-7,7"}]), refused="ascending and disjoint"),
    _block("suspect slots descending", block(suspect="9,3"), refused="ascending and disjoint"),
    _block(
        "cooling slots descending",
        block(cooling=[{"slots": "6,4", "until": "2026-11-22T10:00:00Z"}]),
        refused="ascending and disjoint",
    ),
    _block("suspect slots all dealt with", block(epoch=11, suspect=""), block(suspect="3")),
    _block("slot leased twice", block(leases=[LEASE, _lease("12")]), refused="in one lease only"),
    _block("slot inside another range", block(leases=[LEASE, _lease("3")]), refused="in one lease only"),
    _block("ranges overlapping at an end", block(leases=[LEASE, _lease("7-9")]), refused="in one lease only"),
    _block("range around a slot", block(leases=[LEASE, _lease("9-20")]), refused="in one lease only"),
    _block("slots between those of another", block(leases=[LEASE, _lease("8-11,13-20")])),
    _block("node with two leases", block(leases=[LEASE, {**LEASE, "slots": "20"}]), refused="Duplicate value"),
    _block("node re-created", block(leases=[LEASE, {**LEASE, "nodeUID": "u2", "slots": "20"}])),
    _block(
        "slot pinned twice",
        block(
            pins=[
                {"slot": 5, "owner": {"kind": "StatefulSet", "namespace": "a", "name": f"web-{i}", "interface": "eth0"}}
                for i in (0, 1)
            ]
        ),
        refused="Duplicate value",
    ),
    _block(
        "lease above the block's epoch", block(leases=[{**LEASE, "epoch": 11}]), refused="must not be above the block's"
    ),
    _block("claim", block(epoch=11, leases=[{**LEASE, "epoch": 11}]), block()),
    _block("epoch kept", block(leases=[LEASE]), block(), refused="epoch must grow"),
    _block("epoch lower", block(epoch=9), block(leases=[LEASE]), refused="epoch must grow"),
    _block("nothing changed", block(leases=[LEASE]), block(leases=[LEASE])),
    _block("new lease with an old epoch", block(epoch=11, leases=[LEASE]), block(), refused="must carry a new epoch"),
    _block(
        "lease grown under its old epoch",
        block(epoch=11, leases=[{**LEASE, "slots": "0-8"}]),
        block(leases=[LEASE]),
        refused="must carry a new epoch",
    ),
    _block(
        "other lease untouched",
        block(epoch=11, leases=[LEASE, {**OTHER_LEASE, "slots": "20", "epoch": 11}]),
        block(leases=[LEASE, OTHER_LEASE]),
    ),
    _block("lease retaken", block(epoch=11, leases=[{**LEASE, "epoch": 11}]), block(leases=[LEASE])),
    _block("last lease gone", block(epoch=11), block(leases=[LEASE])),
    _block("later term", block(epoch=11, term=4), block()),
    _block("deposed leader", block(epoch=11, term=2), block(), refused="term must not decrease"),
    _block("page changed", block("10.6.0.128/26", epoch=11), block(), refused="page is not changeable"),
    _block("domain changed", block(domain="a", epoch=11), block(), refused="domain is not changeable"),
)


def _node(why: str, new: Json, old: Json | None = None, refused: str = "") -> Case:
    return Case(nephila.IP_NODE, why, new, old, refused)


CONFLICT: Json = {
    "ip": "10.6.0.5",
    "mac": "02:00:00:00:00:01",
    "pool": "p",
    "seen": "2026-11-22T10:00:00Z",
    "how": "arp-claim",
}
GATEWAY: Json = {"ip": "10.6.0.1", "interface": "eth0", "state": "answers", "checked": "2026-11-22T10:00:00Z"}
AUDITED: Json = {"ip": "fd00::1", "state": "in-use", "mac": "02:00:00:00:00:01", "checked": "2026-11-22T10:00:00Z"}


def _told(why: str, refused: str = "", **status: Any) -> Case:
    return Case(nephila.IP_NODE, why, {"status": status}, {}, refused, subresource="status")


def fence(term: int) -> Json:
    return {"spec": {"fence": {"id": f"f{term}", "term": term, "since": "2026-11-22T10:00:00Z"}}}


NODES = (
    _node("empty", {}),
    _node("recall", {"spec": {"recalls": [{"id": "r1", "pool": "p", "count": 4}]}}),
    _node(
        "recall twice",
        {"spec": {"recalls": [{"id": "r1", "pool": "p", "count": 4}, {"id": "r1", "pool": "q", "count": 4}]}},
        refused="Duplicate value",
    ),
    _node("fenced", fence(2), {}),
    _node("fence removed", {"spec": {}}, fence(2)),
    _node("fence of a later leader", fence(3), fence(2)),
    _node("fence of a deposed leader", fence(1), fence(2), refused="term of a fence mark must not decrease"),
    _told("conflict seen", conflicts=[CONFLICT]),
    _told("conflict without an address", conflicts=[{**CONFLICT, "ip": "10.6.0"}], refused="must be an IP address"),
    _told("gateway asked", gateways=[GATEWAY]),
    _told("gateway without an address", gateways=[{**GATEWAY, "ip": "10.6.0"}], refused="must be an IP address"),
    _told("gateway in no known state", gateways=[{**GATEWAY, "state": "up"}], refused="state"),
    _told("segment watched", segments=[{"interface": "eth0", "mode": "ebpf", "proxies": ["02:00:00:00:00:01"]}]),
    _told("segment told twice", segments=[{"interface": "eth0", "mode": "off"}] * 2, refused="Duplicate"),
    _told("audited", audit=[AUDITED]),
    _told("audited without an address", audit=[{**AUDITED, "ip": "::g"}], refused="must be an IP address"),
)


def lock(holder: str, term: int, count: int) -> Json:
    return {"spec": {"holder": holder, "term": term, "renewCount": count, "leaseDurationSeconds": 15}}


def _lock(why: str, new: Json, old: Json | None = None, refused: str = "") -> Case:
    return Case(nephila.LEADER_LOCK, why, new, old, refused)


LOCKS = (
    _lock("first", lock("a", 1, 0)),
    _lock("renewed", lock("a", 1, 8), lock("a", 1, 7)),
    _lock("nothing changed", lock("a", 1, 7), lock("a", 1, 7)),
    _lock("taken over", lock("b", 2, 8), lock("a", 1, 7)),
    _lock("taken over with a count from 0", lock("b", 2, 0), lock("a", 1, 7)),
    _lock("stepped down", lock("", 2, 7), lock("a", 1, 7)),
    _lock(
        "count kept",
        {"spec": {**lock("a", 1, 7)["spec"], "leaseDurationSeconds": 20}},
        lock("a", 1, 7),
        "renewCount must grow",
    ),
    _lock("count lower", lock("a", 1, 6), lock("a", 1, 7), "renewCount must grow"),
    _lock("taken over in the same term", lock("b", 1, 8), lock("a", 1, 7), "term must grow by one"),
    _lock("taken over two terms later", lock("b", 3, 8), lock("a", 1, 7), "term must grow by one"),
    _lock("term raised by the holder", lock("a", 2, 8), lock("a", 1, 7), "term must grow by one"),
    _lock("term lower", lock("b", 1, 8), lock("a", 2, 7), "term must not decrease"),
)

CASES: tuple[Case, ...] = (*POOLS, *SUBNETS, *RESERVED, *OTHERS, *BLOCKS, *NODES, *LOCKS)
