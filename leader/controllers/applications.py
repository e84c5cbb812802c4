"""Gives every application that asks a SpiderSubnet its own pools, and takes them back: created, grown, shrunk and deleted with the application.

One Subnet is one unit of work: `ipam.application_pools.plan` says what shall be, its record is written into the Subnet's status by compare-and-swap,
and only then pools are created, set to their addresses, or deleted. Everything is level-triggered, so an interrupted pass is completed by the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from adapters.clock import Clock
from adapters.kube.store import Exists, Outcome, Stored
from crds import convert
from crds.derived import cidr_label
from crds.meta import UNSET, Condition, KubeObject, LabelSelector, ObjectMeta, OwnerReference
from crds.spiderpool import API_VERSION, FINALIZER, IP_POOL, SUBNET, IPPoolSpec, SpiderIPPool, SpiderSubnet
from ipam import annotations as notes
from ipam.application_pools import Demand, Entry, Plan, Shortage, Standing, plan
from ipam.applications import PREFIX, AppOwner, PoolNumber, label_value
from ipam.errors import BadValue
from ipam.pools import Pool
from ipam.ranges import RangeSet
from leader.announce import Announcer
from leader.sight import Sight
from leader.workloads import Workloads
from leader.writing import Writer

log = structlog.get_logger(__name__)

RECLAIM = f"{PREFIX}/ippool-reclaim"
_BUILT_IN_GROUPS = frozenset({"apps", "batch"})


class Applications:
    """`default_number`: for applications that state none. `period_s`: everything is looked at so often, whatever was seen to change."""

    def __init__(
        self,
        sight: Sight,
        workloads: Workloads,
        writer: Writer,
        clock: Clock,
        announcer: Announcer,
        default_number: PoolNumber,
        period_s: float,
    ) -> None:
        self._clock = clock
        self._period_s = period_s
        self._all_at = float("-inf")
        self._sight = sight
        self._workloads = workloads
        self._writer = writer
        self._announcer = announcer
        self._default_number = default_number
        self._due: set[str] = set()
        self._shrinking: set[str] = set()
        self._told: dict[str, frozenset[str]] = {}
        self.created = self.resized = self.deleted = 0
        workloads.touched.append(self._touched)

    def concerns(self, changed: KubeObject) -> bool:
        """Whether a change that the leader saw gives work here; remembers what."""
        match changed.kind:
            case "SpiderIPPool":
                return self._mark_pool(changed)
            case "SpiderReservedIP":
                self._due.update(subnet.name for subnet in self._workloads.subnets)
                return True
            case "SpiderEndpoint":
                self._due |= self._shrinking
                return bool(self._shrinking)
            case _:
                return False

    async def work(self) -> None:
        """One pass over the Subnets that may need it. Raises StoreError, Deposed."""
        if self._clock.now() - self._all_at >= self._period_s:
            self._all_at = self._clock.now()
            self._due.update(subnet.name for subnet in self._workloads.subnets)
        while self._due:
            name = min(self._due)
            self._due.discard(name)
            try:
                if not await self._serve(name):
                    self._due.add(name)
                    return  # somebody was faster: what they wrote is on its way to our copies
            except BaseException:
                self._due.add(name)
                raise

    # One Subnet --------------------------------------------------------------------------------------------------------------------------

    async def _serve(self, name: str) -> bool:
        """True if all of it stands; False if a write met another writer, and the pass must be repeated on newer copies."""
        stored = self._workloads.subnets.get(name)
        if stored is None:
            self._tell_missing(name)
            return True
        try:
            subnet = convert.subnet(stored)
        except BadValue as error:
            self._announcer.announce(stored, "SubnetRefused", str(error))
            return True
        closed = self._closed(stored, subnet)
        planned = self._plan(stored, subnet, closed)
        self._shrinking.discard(name)
        if planned.shrinking:
            self._shrinking.add(name)
        self._tell_shortages(stored, planned.short)
        if not await self._write_record(stored, subnet, planned.record, closed):
            return False
        done = [await self._create(stored, demand, ips) for demand, ips in planned.create]
        done += [await self._resize(pool, ips) for pool, ips in planned.resize]
        done += [await self._renew(pool, demand) for pool, demand in planned.pools]
        done += [await self._delete(pool) for pool in planned.delete]
        return all(done)

    def _closed(self, stored: SpiderSubnet, subnet: Pool) -> str:
        """Of Subnets whose networks overlap, only the oldest gives out addresses."""
        if stored.deleting:
            return "is being deleted"
        older = self._workloads.older_than(subnet)
        return f"overlaps the older subnet {older.name}" if older else ""

    def _plan(self, stored: SpiderSubnet, subnet: Pool, closed: str) -> Plan:
        demands = tuple(
            Demand(want, (want.number or self._default_number).wanted(asking.replicas))
            for asking in self._workloads.of_subnet(stored.name)
            for want in asking.wants
            if want.subnet == stored.name
        )
        catalog = self._sight.book.catalog
        standing = [
            self._standing(pool, stored.name)
            for pool in catalog
            if (pool.family, pool.domain) == (subnet.family, subnet.domain)
        ]
        reserved = convert.reserved_union(convert.readable(self._sight.reserved, convert.reserved).values)
        return plan(
            subnet,
            convert.controlled_pools(stored, subnet.family),
            demands,
            standing,
            reserved[subnet.family],
            self._workloads.unclear(),
            closed,
        )

    def _standing(self, pool: Pool, subnet: str) -> Standing:
        busy = RangeSet.empty(pool.family)
        reclaim = False
        if pool.app is not None and pool.owner_subnet == label_value(subnet):
            values = {use.address.value for use in self._sight.uses(pool.name) if use.address.family is pool.family}
            busy = RangeSet.of(pool.family, ((value, value) for value in values))
            stored = self._sight.pools.get(pool.name)
            # Who asks for the pools of other groups' kinds is not known here, so nothing proves that nobody does.
            reclaim = (
                stored is not None
                and stored.labels.get(RECLAIM, "true") == "true"
                and pool.app.api_group in _BUILT_IN_GROUPS
            )
        return Standing(pool, busy, reclaim)

    # Writes ------------------------------------------------------------------------------------------------------------------------------

    async def _write_record(self, stored: SpiderSubnet, subnet: Pool, record: Mapping[str, Entry], closed: str) -> bool:
        wanted: dict[str, Any] = {
            "controlledIPPools": _record_text(record),
            "totalIPCount": subnet.total_count,
            "allocatedIPCount": sum(entry.ips.size for entry in record.values()),
        }
        status = stored.status
        if (
            status is not UNSET
            and (
                status.controlled_ip_pools or None,
                status.total_ip_count,
                status.allocated_ip_count,
            )
            == tuple(wanted.values())
            and _says(stored, closed)
        ):
            return True
        wanted["conditions"] = [self._condition(stored, closed)]
        return isinstance(await self._writer.patch(SUBNET, stored, {"status": wanted}, subresource="status"), Stored)

    def _condition(self, stored: SpiderSubnet, closed: str) -> dict[str, Any]:
        since = datetime.fromtimestamp(int(self._clock.wall()), UTC)
        if stored.status is not UNSET and _says(stored, closed):
            since = stored.status.conditions[0].last_transition_time
        state, reason = ("False", "Closed") if closed else ("True", "Serving")
        condition: dict[str, Any] = msgspec.to_builtins(
            Condition(
                type="Ready",
                status=state,
                reason=reason,
                last_transition_time=since,
                message=closed,
                observed_generation=stored.metadata.generation,
            )
        )
        return condition

    async def _create(self, stored: SpiderSubnet, demand: Demand, ips: RangeSet) -> bool:
        outcome: Outcome[SpiderIPPool] = await self._writer.create(IP_POOL, pool_object(stored, demand, ips))
        if isinstance(outcome, Stored):
            self.created += 1
            log.info("application_pool_created", pool=demand.want.name, subnet=stored.name, addresses=ips.size)
        elif not isinstance(outcome, Exists):
            log.warning("application_pool_not_created", pool=demand.want.name, outcome=str(outcome))
        return isinstance(outcome, Stored | Exists)

    async def _resize(self, name: str, ips: RangeSet) -> bool:
        stored = self._sight.pools.get(name)
        if stored is None:
            return False
        changes = {"spec": {"ips": list(ips.format()), "excludeIPs": None}}
        if not isinstance(await self._writer.patch(IP_POOL, stored, changes), Stored):
            return False
        self.resized += 1
        log.info("application_pool_resized", pool=name, addresses=ips.size)
        return True

    async def _renew(self, name: str, demand: Demand) -> bool:
        """The pool's marks follow its application: a re-created one has another UID, and wishes change."""
        stored = self._sight.pools.get(name)
        if stored is None:
            return False
        labels, annotations = marks(demand)
        missing = {key: value for key, value in labels.items() if stored.labels.get(key) != value}
        stale = {key: value for key, value in annotations.items() if stored.annotations.get(key) != value}
        if not missing and not stale:
            return True
        changes = {"metadata": {"labels": missing, "annotations": stale}}
        # A resize a moment ago made our copy old: then the next pass writes this.
        return isinstance(await self._writer.patch(IP_POOL, stored, changes), Stored)

    async def _delete(self, name: str) -> bool:
        stored = self._sight.pools.get(name)
        if stored is None:
            return True
        gone = await self._writer.delete(IP_POOL, stored)
        if gone:
            self.deleted += 1
            log.info("application_pool_deleted", pool=name)
        return gone

    # What changed, and what people are told --------------------------------------------------------------------------------------------

    def _touched(self, subnets: frozenset[str], app: AppOwner | None) -> None:
        self._due |= subnets
        if app is None:
            self._due.update(subnet.name for subnet in self._workloads.subnets if self._says_closed(subnet))
        if app is not None:  # it may have asked another Subnet before, and left pools there
            for pool in self._sight.pools:
                if pool.labels.get(f"{PREFIX}/owner-application-name") == app.name:
                    self._mark_pool(pool)

    def _says_closed(self, subnet: SpiderSubnet) -> bool:
        return subnet.status is not UNSET and any(item.status == "False" for item in subnet.status.conditions)

    def _mark_pool(self, pool: KubeObject) -> bool:
        concerned = {
            subnet.name
            for subnet in self._workloads.subnets
            if isinstance(pool, SpiderIPPool) and subnet.spec.subnet == pool.spec.subnet
        }
        self._due |= concerned
        return bool(concerned)

    def _tell_missing(self, name: str) -> None:
        for asking in self._workloads.of_subnet(name):
            if (workload := self._workloads.get(asking.owner)) is not None:
                self._announcer.announce(workload, "SubnetNotFound", f"SpiderSubnet {name} does not exist")

    def _tell_shortages(self, stored: SpiderSubnet, short: tuple[Shortage, ...]) -> None:
        """Once per change of what is short."""
        words = frozenset(str(shortage) for shortage in short)
        if self._told.get(stored.name, frozenset()) == words:
            return
        self._told[stored.name] = words
        for shortage in short:
            self._announcer.announce(stored, "InsufficientAddresses", str(shortage))
            if (workload := self._workloads.get(shortage.want.owner)) is not None:
                self._announcer.announce(workload, "InsufficientAddresses", str(shortage))


def _says(stored: SpiderSubnet, closed: str) -> bool:
    """Whether the Subnet's condition tells this already."""
    conditions = stored.status.conditions if stored.status is not UNSET else ()
    return [item.message for item in conditions] == [closed]


def pool_object(subnet: SpiderSubnet, demand: Demand, ips: RangeSet) -> SpiderIPPool:
    """A new application pool, with the labels and the affinity that Spiderpool documents."""
    labels, annotations = marks(demand)
    owner = OwnerReference(
        api_version=API_VERSION,
        kind="SpiderSubnet",
        name=subnet.name,
        uid=subnet.uid,
        controller=True,
        block_owner_deletion=True,
    )
    return SpiderIPPool(
        metadata=ObjectMeta(
            name=demand.want.name,
            labels={
                **labels,
                convert.OWNER_SUBNET: label_value(subnet.name),
                f"{PREFIX}/ippool-cidr": cidr_label(subnet.spec.subnet),
                convert.INTERFACE: demand.want.interface,
                f"{PREFIX}/ip-version": f"IPv{int(demand.want.family)}",
            },
            annotations={**annotations, **_domain_of(subnet)},
            finalizers=(FINALIZER,),
            owner_references=(owner,),
        ),
        spec=IPPoolSpec(
            ip_version=int(demand.want.family),
            subnet=subnet.spec.subnet,
            ips=ips.format(),
            gateway=subnet.spec.gateway,
            routes=subnet.spec.routes,
            pod_affinity=LabelSelector(match_labels=dict(demand.app.selector().match_labels)),
        ),
    )


def marks(demand: Demand) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations that follow the application."""
    owner = demand.want.owner
    number = demand.want.number
    labels = {
        f"{PREFIX}/owner-application-gv": owner.api_version.replace("/", "_"),
        f"{PREFIX}/owner-application-kind": owner.kind,
        f"{PREFIX}/owner-application-namespace": owner.namespace,
        f"{PREFIX}/owner-application-name": label_value(owner.name),
        f"{PREFIX}/owner-application-uid": owner.uid,
        RECLAIM: "true" if demand.want.reclaim else "false",
    }
    if number is None:
        return labels, {}
    return labels, {notes.IPPOOL_NUMBER: str(number.fixed) if number.fixed is not None else f"+{number.extra}"}


def _domain_of(subnet: SpiderSubnet) -> dict[str, str]:
    domain = subnet.annotations.get(convert.L2_DOMAIN, "")
    return {convert.L2_DOMAIN: domain} if domain else {}


def _record_text(record: Mapping[str, Entry]) -> str | None:
    if not record:
        return None
    return json.dumps(
        {
            name: {"ips": list(entry.ips.format())} | ({"application": entry.application} if entry.application else {})
            for name, entry in sorted(record.items())
        },
        separators=(",", ":"),
    )
