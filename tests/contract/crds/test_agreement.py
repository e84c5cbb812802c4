"""The API server and the domain judge alike: what one of them can read, the other accepts, and the other way round.

Where CEL cannot judge, the difference is written down here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from crds import convert
from crds.blocks import block_from_wire
from crds.nephila import IP_BLOCK
from crds.spiderpool import IP_POOL
from ipam.errors import BadValue
from ipam.pools import pool_problems
from tests.contract.crds.conftest import Api

Json = dict[str, Any]
fast = settings(max_examples=150, deadline=None)

_v4 = st.builds("10.6.{}.{}".format, st.integers(0, 1), st.sampled_from([0, 1, 9, 10, 100, 255]))
_odd = st.sampled_from(
    ["10.7.0.1", "fd00::1", "fd00:6::1", "10.6.0", "10.6.0.01", "10.6.0.256", "", "-", "x", "10.6.0.0/24"]
)
_address = st.one_of(_v4, _v4, _v4, _odd)
_item = st.one_of(_address, st.builds("{}-{}".format, _v4, _v4), st.builds("{}-{}".format, _address, _address))
_items = st.lists(_item, max_size=3)
_dst = st.sampled_from(["10.7.0.0/16", "10.8.0.0/16", "0.0.0.0/0", "fd00::/64", "10.7.0.0", "x/8", "10.9.0.0/33"])
_route = st.fixed_dictionaries({"dst": _dst, "gw": _address})
_spec = st.fixed_dictionaries(
    {"subnet": st.sampled_from(["10.6.0.0/16", "10.6.0.0/16", "10.6.0.0/24", "10.6.0.1/24", "10.6.0.0", "0.0.0.0/0"])},
    optional={
        "ipVersion": st.sampled_from([4, 6]),
        "ips": _items,
        "excludeIPs": _items,
        "gateway": _address,
        "routes": st.lists(_route, max_size=2, unique_by=lambda route: route["dst"]),
        "podAffinity": st.sampled_from([{}, {"matchLabels": {"a": "b"}}]),
    },
)


def _problems(whole: Json) -> list[str]:
    """What the domain finds wrong with a pool, but for what CEL cannot say: a gateway inside `ips`."""
    try:
        pool = convert.pool(IP_POOL.from_builtins(whole))
    except BadValue as error:
        return [str(error)]
    return [str(problem) for problem in pool_problems(pool) if "conflicts with gateway" not in problem.reason]


@fast
@given(spec=_spec)
def test_pool_is_refused_if_and_only_if_the_domain_finds_a_problem(api: Api, spec: Json) -> None:
    whole = {"apiVersion": IP_POOL.api_version, "kind": IP_POOL.kind, "metadata": {"name": "agreement"}, "spec": spec}
    answer = api.request("POST", f"{IP_POOL.path()}?dryRun=All", whole)
    assert answer.status in (201, 422), answer
    problems = _problems(whole)
    if spec.get("gateway") == "":
        return  # to the domain an empty gateway is an absent one
    assert (answer.status == 422) == bool(problems), (answer.message, problems)


_slot = st.integers(0, 65)
_span = st.one_of(st.builds(str, _slot), st.builds("{}-{}".format, _slot, _slot))
_slots = st.lists(_span, min_size=1, max_size=3).map(",".join)
_ordered = st.sets(_slot, min_size=1, max_size=4).map(lambda found: ",".join(map(str, sorted(found))))
_pair = st.tuples(_slot, _slot).map(lambda ends: f"{min(ends)}-{max(ends)}" if ends[0] != ends[1] else str(ends[0]))


@fast
@given(
    slots=st.lists(st.one_of(_slots, _ordered, _pair, _pair), min_size=1, max_size=3),
    suspect=st.one_of(st.just(""), _slots),
)
def test_block_is_refused_if_and_only_if_the_domain_cannot_read_it(api: Api, slots: list[str], suspect: str) -> None:
    leases = [{"node": f"n{i}", "nodeUID": "u", "slots": text, "epoch": 1} for i, text in enumerate(slots)]
    spec = {"page": "10.6.0.64/26", "domain": "", "epoch": 1, "term": 0, "leases": leases, "suspect": suspect}
    metadata = {"name": "ip4-10-6-0-64"}
    whole = {"apiVersion": IP_BLOCK.api_version, "kind": IP_BLOCK.kind, "metadata": metadata, "spec": spec}
    answer = api.request("POST", f"{IP_BLOCK.path()}?dryRun=All", whole)
    assert answer.status in (201, 422), answer
    assert "evaluating rule" not in answer.message
    try:
        block_from_wire(IP_BLOCK.decode(msgspec.json.encode(whole)))
        readable = True
    except BadValue:
        readable = False
    # A range of one slot ("7-7") is readable, but never written.
    spans = [item.split("-") for text in (*slots, suspect) for item in text.split(",") if "-" in item]
    odd = any(first == last for first, last in spans)
    assert (answer.status == 201) == (readable and not odd), answer.message
