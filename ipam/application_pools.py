"""Application pools of one SpiderSubnet: which there shall be, with which addresses, planned from facts alone.

The record (`status.controlledIPPools` of the Subnet) says which pool has which addresses. It is written first, by compare-and-swap; pools follow it.
So two leaders never give one address to two pools, a crash in between is completed by the next pass, and an edited pool is put back.

Addresses are taken lowest first. Only addresses that no pod has are taken away. A pool that gets too few addresses gets those that there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from ipam import annotations as notes
from ipam.applications import MAX_NAME, AppOwner, WantedPool, label_value, pool_name
from ipam.errors import BadAnnotation, NoPoolSelected
from ipam.facts import Features
from ipam.owners import TopOwner
from ipam.pools import Pool
from ipam.ranges import RangeSet


def wants_of(owner: TopOwner, annotations: Mapping[str, str], features: Features) -> tuple[WantedPool, ...]:
    """The application pools that a workload's template asks for, over all interfaces. Raises BadAnnotation, NoPoolSelected."""
    if not (features.subnets and features.auto_pools):
        return ()
    if (text := annotations.get(notes.SUBNETS)) is not None:
        key, requests = notes.SUBNETS, notes.parse_subnets(text)
    elif (text := annotations.get(notes.SUBNET)) is not None:
        key, requests = notes.SUBNET, (notes.parse_subnet(text),)
    else:
        return ()
    return tuple(want for request in requests for want in wanted_pools(key, request, owner, annotations, features))


def wanted_pools(
    key: str, request: notes.NicRequest, owner: TopOwner, annotations: Mapping[str, str], features: Features
) -> tuple[WantedPool, ...]:
    """The pools for one interface. `key`: the annotation that asks. Raises BadAnnotation, NoPoolSelected."""
    if owner.is_bare_pod:
        raise BadAnnotation(
            key, "the subnet feature doesn't support no-controller pods", f"use {notes.IPPOOL} for a bare pod"
        )
    number_text = annotations.get(notes.IPPOOL_NUMBER)
    number = None if number_text is None else notes.parse_pool_number(number_text)
    if owner.is_third_party and (number is None or number.fixed is None):
        raise BadAnnotation(
            notes.IPPOOL_NUMBER,
            f"a controller of kind {owner.kind} only supports fixed auto-created IPPool IP Number",
            'write a fixed number such as "5"',
        )
    reclaim_text = annotations.get(notes.IPPOOL_RECLAIM)
    reclaim = reclaim_text is None or notes.parse_reclaim(reclaim_text)
    asked = [(family, request.names[family][0]) for family in features.families if family in request.names]
    if not asked:
        raise NoPoolSelected(
            f"no IPPool available from {key}: only a family that is switched off is named",
            "name subnets of a family that is switched on, or switch the other one on",
        )
    return tuple(
        WantedPool(
            pool_name(family, owner, request.interface), family, subnet, request.interface, owner, number, reclaim
        )
        for family, subnet in asked
    )


def application_id(app: AppOwner) -> str:
    """How the record names an application: `apps_v1_Deployment_default_web`; of the core group, without the group."""
    parts = (app.api_group, app.api_version, app.kind, app.namespace, app.name)
    return "_".join(parts if app.api_group else parts[1:])


@dataclass(frozen=True, slots=True)
class Demand:
    """One application pool that a living application asks of this subnet, and how many addresses it shall have."""

    want: WantedPool
    size: int

    @property
    def app(self) -> AppOwner:
        return AppOwner.of(self.want.owner)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the record says of one pool; `application` "" for a pool made by hand."""

    ips: RangeSet
    application: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """A pool that exists. `busy`: its addresses that pods have; `reclaim`: it goes with its application."""

    pool: Pool
    busy: RangeSet
    reclaim: bool = True


@dataclass(frozen=True, slots=True)
class Shortage:
    """A pool that cannot have what it should."""

    want: WantedPool
    size: int
    missing: int
    why: str

    def __str__(self) -> str:
        return f"{self.want.name} of {AppOwner.of(self.want.owner)}: {self.why}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`record` is written first; then pools are created, set to their addresses, and deleted. `pools`: by which pool each demand is met."""

    record: Mapping[str, Entry]
    create: tuple[tuple[Demand, RangeSet], ...] = ()
    resize: tuple[tuple[str, RangeSet], ...] = ()
    delete: tuple[str, ...] = ()
    pools: tuple[tuple[str, Demand], ...] = ()
    short: tuple[Shortage, ...] = ()
    shrinking: bool = False


@dataclass(slots=True)
class _Drawing:
    """The plan while it is drawn: addresses by pool, application pools apart from those made by hand."""

    subnet: Pool
    reserved: RangeSet
    by_hand: dict[str, RangeSet] = field(default_factory=dict)
    ours: dict[str, RangeSet] = field(default_factory=dict)

    @property
    def total(self) -> RangeSet:
        return self.subnet.usable

    def free(self) -> RangeSet:
        """What an application pool may still get."""
        taken = [span for ips in (*self.by_hand.values(), *self.ours.values()) for span in ips.spans]
        return self.total - self.reserved - RangeSet.of(self.subnet.family, taken)


def plan(
    subnet: Pool,
    record: Mapping[str, Entry],
    demands: Collection[Demand],
    standing: Iterable[Standing],
    reserved: RangeSet,
    unclear: Collection[AppOwner] = (),
    closed: str = "",
) -> Plan:
    """What to do for one Subnet.

    `standing`: every pool of its family and L2 domain. `reserved`: SpiderReservedIPs. `unclear`: living applications whose annotations cannot be
    read: their pools stay as they are. `closed`: why this Subnet may give out nothing new (it is being deleted, an older one has its addresses).
    """
    drawing, ours = _begun(subnet, record, standing, reserved)
    served, orphans = _matched(demands, ours)
    short: list[Shortage] = []
    shrinking = False
    for name, demand in served.items():
        shrinking |= _shrink(drawing, name, demand.size, ours[name].busy)
    create: list[Demand] = []
    for demand in sorted(demands, key=lambda demand: (demand.want.name not in record, demand.want.name)):
        if demand not in served.values():
            _admit(drawing, demand, record, ours, create, short)
    for name, demand in (*served.items(), *((demand.want.name, demand) for demand in create)):
        if not closed:
            _grow(drawing, name, demand, short)
        elif (missing := demand.size - (drawing.ours[name] - reserved).size) > 0:
            short.append(Shortage(demand.want, demand.size, missing, f"subnet {subnet.name} {closed}"))
    new = [(demand, ips) for demand in create if (ips := drawing.ours[demand.want.name])]
    names = {name: application_id(item.pool.app) for name, item in ours.items() if item.pool.app}
    names |= {demand.want.name: application_id(demand.app) for demand, _ in new}
    inside = {name: ips & RangeSet.of_network(subnet.subnet) for name, ips in drawing.by_hand.items()}
    return Plan(
        record={
            **{name: Entry(ips) for name, ips in inside.items() if ips},
            **{name: Entry(drawing.ours[name], application) for name, application in names.items()},
        },
        create=tuple(new),
        resize=tuple(
            (name, drawing.ours[name])
            for name, item in ours.items()
            if drawing.ours[name] != item.pool.ips and not item.pool.deleting
        ),
        delete=tuple(
            item.pool.name
            for item in orphans
            if item.reclaim and not item.pool.deleting and item.pool.app not in unclear
        ),
        pools=tuple(served.items()),
        short=tuple(short),
        shrinking=shrinking,
    )


def _begun(
    subnet: Pool, record: Mapping[str, Entry], standing: Iterable[Standing], reserved: RangeSet
) -> tuple[_Drawing, dict[str, Standing]]:
    """What pods and the record have already, and the application pools that stand, oldest first."""
    drawing = _Drawing(subnet, reserved)
    ours: dict[str, Standing] = {}
    for item in sorted(standing, key=lambda item: item.pool.seniority):
        if item.pool.app is not None and item.pool.owner_subnet == label_value(subnet.name):
            ours[item.pool.name] = item
        else:
            drawing.by_hand[item.pool.name] = item.pool.ips - item.pool.exclude
    by_hand = RangeSet.of(subnet.family, [span for ips in drawing.by_hand.values() for span in ips.spans])
    taken = by_hand
    kept = {name: record[name].ips if name in record else item.pool.ips for name, item in ours.items()}
    # What pods have comes first: an idle claim of an older pool, such as one left in the record, must not take it from them.
    for name, item in ours.items():
        drawing.ours[name] = (kept[name] & item.busy) - taken
        taken |= drawing.ours[name]
    for name in ours:
        drawing.ours[name] |= kept[name] & drawing.total - taken
        taken |= drawing.ours[name]
    return drawing, ours


def _matched(demands: Iterable[Demand], ours: Mapping[str, Standing]) -> tuple[dict[str, Demand], tuple[Standing, ...]]:
    """Which standing pool meets which demand: that of the same application and interface, whatever its name; and the pools nobody asks for."""
    open_demands = {(demand.app, demand.want.interface): demand for demand in demands}
    served: dict[str, Demand] = {}
    orphans: list[Standing] = []
    for name, item in ours.items():
        key = (item.pool.app, item.pool.app_interface)
        demand = None if item.pool.deleting or key[0] is None else open_demands.pop((key[0], key[1]), None)
        if demand is None:
            orphans.append(item)
        else:
            served[name] = demand
    return served, tuple(orphans)


def _admit(
    drawing: _Drawing,
    demand: Demand,
    record: Mapping[str, Entry],
    ours: Mapping[str, Standing],
    create: list[Demand],
    short: list[Shortage],
) -> None:
    """A demand without a pool: begin with what the record already gives it (an interrupted pass), or say why it must wait."""
    if demand.want.family is not drawing.subnet.family:
        why = f"subnet {drawing.subnet.name} is not of IPv{int(demand.want.family)}"
        short.append(Shortage(demand.want, demand.size, demand.size, why))
    else:
        name = _free_name(demand, record, {*ours, *drawing.by_hand})
        begun = record[name].ips if name in record else RangeSet.empty(drawing.subnet.family)
        drawing.ours[name] = begun & drawing.free()
        create.append(replace(demand, want=replace(demand.want, name=name)))


def _free_name(demand: Demand, record: Mapping[str, Entry], used: Collection[str]) -> str:
    """The pool's name; with a number after it where another pool has it, such as one kept from an application of the same name."""
    mine = application_id(demand.app)
    for number in count(1):
        suffix = f"-{number}" if number > 1 else ""
        name = f"{demand.want.name[: MAX_NAME - len(suffix)]}{suffix}"
        if name not in used and (name not in record or record[name].application == mine):
            return name
    raise AssertionError("unreachable: numbers do not end")


def _shrink(drawing: _Drawing, name: str, size: int, busy: RangeSet) -> bool:
    """Take away what is too much, the highest free addresses first; True if there would be more to take, once pods are gone."""
    ips = drawing.ours[name]
    ips -= (ips & drawing.reserved) - busy
    usable = ips - drawing.reserved
    excess = usable.size - size
    if excess > 0:
        dropped = _highest(usable - busy, excess)
        ips -= dropped
        excess -= dropped.size
    drawing.ours[name] = ips
    return excess > 0


def _grow(drawing: _Drawing, name: str, demand: Demand, short: list[Shortage]) -> None:
    missing = demand.size - (drawing.ours[name] - drawing.reserved).size
    if missing <= 0:
        return
    free = drawing.free()
    drawing.ours[name] |= free.first(missing)
    if (left := free.size) < missing:
        why = f"insufficient subnet FreeIPs, required {missing} but only left {left} in {drawing.subnet.name}"
        short.append(Shortage(demand.want, demand.size, missing - left, why))


def _highest(ips: RangeSet, count: int) -> RangeSet:
    """The `count` highest addresses (all of them if there are fewer)."""
    return ips - ips.first(max(ips.size - count, 0))
