"""What a plan for a SpiderSubnet never does, whatever stands there; and that following it twice changes nothing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.addresses import Family, Network
from ipam.application_pools import Demand, Entry, Plan, Standing, plan
from ipam.applications import AppOwner, WantedPool, pool_name
from ipam.owners import TopOwner
from ipam.pools import Pool
from ipam.ranges import RangeSet

NETWORK = Network.parse("10.6.0.0/24")
BASE = NETWORK.first


def ranges(low: int = 1, high: int = 60) -> st.SearchStrategy[RangeSet]:
    values = st.sets(st.integers(low, high), max_size=25)
    return values.map(lambda found: RangeSet.of(Family.V4, ((BASE + v, BASE + v) for v in found)))


def owner(number: int) -> TopOwner:
    return TopOwner("apps/v1", "Deployment", "default", f"app{number}", f"uid-{number:05d}")


def demand(number: int, size: int) -> Demand:
    who = owner(number)
    name = pool_name(Family.V4, who, "eth0")
    return Demand(WantedPool(name, Family.V4, "s4", "eth0", who, None, reclaim=True), size)


def pool(name: str, ips: RangeSet, app: AppOwner | None, age: int) -> Pool:
    return Pool(
        name,
        Family.V4,
        NETWORK,
        ips,
        RangeSet.empty(Family.V4),
        created=f"2026-01-01T00:00:{age:02d}Z",
        app=app,
        app_interface="eth0" if app else "",
        owner_subnet="s4" if app else "",
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Pool, dict[str, Entry], list[Demand], list[Standing], RangeSet]:
    subnet = pool("s4", draw(ranges()), None, 0)
    demands = [demand(n, draw(st.integers(1, 8))) for n in draw(st.sets(st.integers(0, 5), max_size=4))]
    standing: list[Standing] = []
    record: dict[str, Entry] = {}
    for age, number in enumerate(sorted(draw(st.sets(st.integers(0, 5), max_size=4))), start=1):
        name = demand(number, 1).want.name
        ips = draw(ranges())
        standing.append(
            Standing(pool(name, ips, AppOwner.of(owner(number)), age), ips & draw(ranges()), draw(st.booleans()))
        )
        if draw(st.booleans()):
            record[name] = Entry(draw(ranges()) | standing[-1].busy, "")
    if draw(st.booleans()):
        standing.append(Standing(pool("by-hand", draw(ranges()), None, 9), RangeSet.empty(Family.V4)))
    return subnet, record, demands, standing, draw(ranges())


def followed(made: Plan, standing: list[Standing]) -> list[Standing]:
    """The pools after the plan was carried out."""
    sizes = dict(made.resize)
    kept = [
        replace(item, pool=replace(item.pool, ips=sizes.get(item.pool.name, item.pool.ips)))
        for item in standing
        if item.pool.name not in made.delete
    ]
    new = [
        Standing(pool(d.want.name, ips, d.app, 20 + n), RangeSet.empty(Family.V4))
        for n, (d, ips) in enumerate(made.create)
    ]
    return kept + new


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_no_address_is_given_to_two_pools_or_taken_from_a_pod(
    world: tuple[Pool, dict[str, Entry], list[Demand], list[Standing], RangeSet],
) -> None:
    subnet, record, demands, standing, reserved = world
    made = plan(subnet, record, demands, standing, reserved)
    seen = RangeSet.empty(Family.V4)
    for name, entry in sorted(made.record.items(), key=lambda item: item[0] != "by-hand"):
        assert not entry.ips & seen, name
        seen |= entry.ips
    for _demand, ips in made.create:
        assert not ips & reserved and not ips - subnet.usable
    hands = next((item.pool.ips for item in standing if item.pool.app is None), RangeSet.empty(Family.V4))
    older = hands
    for item in standing:
        if item.pool.app is None:
            continue
        if item.pool.name in made.delete:
            older |= item.busy & made.record[item.pool.name].ips  # a second pod on one address: the older pool has it
            continue
        kept = record[item.pool.name].ips if item.pool.name in record else item.pool.ips
        assert not (item.busy & kept) - older - made.record[item.pool.name].ips, (
            "an address that a pod has was taken away"
        )
        older |= made.record[item.pool.name].ips


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_a_plan_that_was_followed_leaves_nothing_to_do_but_to_report_shortage(
    world: tuple[Pool, dict[str, Entry], list[Demand], list[Standing], RangeSet],
) -> None:
    subnet, record, demands, standing, reserved = world
    first = plan(subnet, record, demands, standing, reserved)
    after = followed(first, standing)
    second = plan(subnet, first.record, demands, after, reserved)
    third = plan(subnet, second.record, demands, followed(second, after), reserved)
    assert (third.create, third.resize, third.delete) == ((), (), ())
    for name, asked in third.pools:
        usable = (third.record[name].ips - reserved).size
        assert usable >= asked.size or any(short.want.name == asked.want.name for short in third.short)
