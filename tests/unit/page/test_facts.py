"""What the page says of a pool."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from crds.meta import UNSET
from ipam.addresses import Address, Family, Network
from ipam.blocks import Block, Cooling, Lease, NodeRef, Pin, PinOwner
from ipam.budget import Seen, divide
from ipam.pools import Pool
from ipam.ranges import RangeSet
from ipam.slots import Page
from leader.page import facts
from leader.page.facts import Map, Reported, State
from leader.views import EndpointView

BASE = Address.parse("10.6.0.0").value
WALL = 1000.0


def addresses(*items: str) -> RangeSet:
    return RangeSet.parse(Family.V4, items)


def pool(*ips: str, exclude: tuple[str, ...] = (), gateway: str = "") -> Pool:
    return Pool(
        "p",
        Family.V4,
        Network.parse("10.6.0.0/24"),
        addresses(*ips),
        addresses(*exclude),
        gateway=Address.parse(gateway) if gateway else None,
    )


def map_of(one: Pool, *, held: RangeSet, block: Block | None = None, disputed: RangeSet, reserved: RangeSet) -> Map:
    effective = one.effective(reserved)
    blocks = [(block, effective.mask(block.page.base))] if block else []
    return facts.divided(one, divide(one, effective, Seen(reserved, held, disputed, blocks, WALL)), held)


def decoded(text: str) -> str:
    """One letter per address."""
    letters, number = "", ""
    for character in f"{text}$":
        if character.isdigit():
            number += character
            continue
        letters += letters[-1:] * (int(number) - 1) if number else ""
        letters, number = letters + character, ""
    return letters[:-1]


def in_every_state() -> Map:
    owner = PinOwner("StatefulSet", "shop", "db-0", "eth0")
    block = Block(
        Page(Family.V4, BASE),
        leases=(Lease(NodeRef("n1", "u"), 0b111100, 3),),
        pins=(Pin(7, owner),),
        suspect=1 << 9,
        cooling=(Cooling(1 << 6, WALL + 1), Cooling(1 << 10, WALL - 1)),
    )
    return map_of(
        pool("10.6.0.1-10.6.0.12", exclude=("10.6.0.11",), gateway="10.6.0.1"),
        held=addresses("10.6.0.2-10.6.0.3", "10.6.0.12"),
        block=block,
        disputed=addresses("10.6.0.8"),
        reserved=addresses("10.6.0.12"),
    )


def test_every_address_of_the_grid_is_in_one_state() -> None:
    shown = facts.window(in_every_state(), 0, 100)
    # The gateway; two pods; two leased ahead; cooling; pinned; a stranger; suspect; cooled and so free; a pod's, though it was reserved since.
    assert decoded(shown["states"]) == "raawwcpqsfa"
    assert shown["spans"] == [["10.6.0.1", 10], ["10.6.0.12", 1]]


def test_counts_add_up_to_the_total() -> None:
    row = facts.summary(in_every_state(), Reported())
    assert sum(row[state.name.lower()] for state in State) == row["total"] == 11
    assert (row["available"], row["utilisation"]) == (5, round(4 / 9, 4))


def test_what_rests_on_nodes_counts_as_cooling_and_never_exceeds_the_leased() -> None:
    row = facts.summary(in_every_state(), Reported(cooling=1))
    assert (row["warm"], row["cooling"], row["restingOnNodes"]) == (1, 2, 1)
    assert facts.summary(in_every_state(), Reported(cooling=50))["warm"] == 0


def test_thresholds() -> None:
    assert [facts.level_of(share) for share in (0.0, 0.7499, 0.75, 0.8999, 0.9, 1.0)] == [
        "ok",
        "ok",
        "warning",
        "warning",
        "danger",
        "danger",
    ]


def test_a_pool_says_what_keeps_it_from_serving() -> None:
    empty = addresses()
    full = map_of(pool("10.6.0.2"), held=addresses("10.6.0.2"), disputed=empty, reserved=empty)
    assert facts.summary(full, Reported())["state"] == "Exhausted"
    withheld = map_of(pool("10.6.0.2"), held=empty, disputed=empty, reserved=addresses("10.6.0.2"))
    assert "older pools" in facts.summary(withheld, Reported())["why"]
    ready = map_of(pool("10.6.0.2"), held=empty, disputed=empty, reserved=empty)
    assert facts.summary(ready, Reported())["state"] == "Ready"
    assert facts.summary(ready, Reported(), "elder")["state"] == "Overlapping"


@given(
    spans=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 5)), min_size=1, max_size=8),
    held=st.sets(st.integers(0, 255)),
    size=st.integers(1, 60),
)
def test_windows_put_together_are_the_grid(spans: list[tuple[int, int]], held: set[int], size: int) -> None:
    ips = RangeSet.of(Family.V4, [(BASE + low, BASE + min(low + more, 255)) for low, more in spans])
    one = Pool("p", Family.V4, Network.parse("10.6.0.0/24"), ips, addresses())
    used = RangeSet.of(Family.V4, [(BASE + value, BASE + value) for value in held])
    picture = map_of(one, held=used, disputed=addresses(), reserved=addresses())
    states, first = "", "0"
    while True:
        shown = facts.window(picture, int(first), size)
        assert sum(length for _, length in shown["spans"]) == shown["count"] == len(decoded(shown["states"]))
        states += decoded(shown["states"])
        if shown["next"] is None:
            break
        back = facts.window(picture, int(shown["next"]), size)["previous"]
        assert back == first
        first = shown["next"]
    assert states == "".join("a" if value in used else "f" for value in ips)
    assert [facts.ordinal(ips, value) for value in ips] == list(range(ips.size))


def test_a_pool_without_end_costs_no_more() -> None:
    whole = Network.parse("fd00::/64")
    one = Pool("p", Family.V6, whole, RangeSet.of_network(whole), RangeSet.empty(Family.V6))
    empty = RangeSet.empty(Family.V6)
    picture = facts.divided(one, divide(one, one.usable, Seen(empty, empty, empty, (), WALL)), empty)
    shown = facts.window(picture, 1 << 63, facts.MAX_WINDOW * 9)
    assert (shown["count"], shown["spans"], shown["states"]) == (65_536, [["fd00::8000:0:0:0", 65_536]], "f65536")
    assert shown["size"] == str(1 << 64)
    assert msgspec.json.encode(facts.summary(picture, Reported()))


def test_a_stored_endpoint_tells_since_when_and_which_mac() -> None:
    text = b"""{"metadata":{"name":"a","creationTimestamp":"2026-07-25T12:00:00Z"},"status":{"current":{"uid":"u","node":"n",
      "ips":[{"interface":"eth0","ipv4":"10.6.0.2/24","ipv4Pool":"p","mac":"02:00:00:00:00:01"}]}}}"""
    endpoint = msgspec.json.decode(text, type=EndpointView)
    assert endpoint.metadata.creation_timestamp is not None
    assert endpoint.status is not UNSET and endpoint.status.current.ips[0].mac == "02:00:00:00:00:01"
