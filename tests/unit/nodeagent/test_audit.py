"""Which addresses are audited, and what of the results is shown. What the wire says is shown by the lab's scenario `reserved`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapters.clock import ManualClock
from crds.nephila import AUDIT_MAX
from ipam.addresses import Address, Family, Network
from ipam.pools import Pool
from ipam.ranges import RangeSet
from nodeagent.audit import MAX_AUDITED, Audit, withheld
from probes.macs import Party
from probes.messages import How
from probes.verdicts import Evidence, State, Verdict

MAC = "02:00:00:00:00:09"


def pool(name: str, subnet: str, *exclude: str, domain: str = "") -> Pool:
    network = Network.parse(subnet)
    return Pool(
        name,
        network.family,
        network,
        RangeSet.of_network(network),
        RangeSet.parse(network.family, exclude),
        domain=domain,
    )


def reserved(*ips: str) -> dict[Family, RangeSet]:
    return {
        Family.V4: RangeSet.parse(Family.V4, [ip for ip in ips if ":" not in ip]),
        Family.V6: RangeSet.parse(Family.V6, [ip for ip in ips if ":" in ip]),
    }


class Script:
    """A segment on which the given addresses answer and the given ones stay unknown; the rest is silent."""

    def __init__(self, clock: ManualClock, taken: set[str], unknown: set[str]) -> None:
        self.clock, self.taken, self.unknown = clock, taken, unknown

    async def verify(self, addresses: list[Address], *_: object, **__: object) -> dict[Address, Verdict]:
        return {address: self._verdict(address) for address in addresses}

    def _verdict(self, address: Address) -> Verdict:
        now = self.clock.now()
        if str(address) in self.unknown:
            return Verdict(address, State.UNKNOWN, now)
        if str(address) in self.taken:
            return Verdict(address, State.TAKEN, now, Evidence(MAC, How.ARP_CLAIM, Party.FOREIGN, now))
        return Verdict(address, State.CLEAR, now)


def in_domain(wanted: str) -> Callable[[str, Address], bool]:
    return lambda domain, _address: domain == wanted


def test_excluded_addresses_and_reserved_ones_inside_a_pools_subnet_are_audited_and_no_others() -> None:
    pools = [pool("a", "10.6.0.0/24", "10.6.0.9"), pool("b", "10.7.0.0/24", "10.7.0.9", domain="lab")]
    found = withheld(pools, reserved("10.6.0.20-10.6.0.21", "10.7.0.5", "192.168.0.1", "fd00::1"), in_domain(""))
    assert [str(address) for address in found] == ["10.6.0.9", "10.6.0.20", "10.6.0.21"]


def test_a_huge_exclusion_is_cut_without_being_walked() -> None:
    assert (
        len(withheld([pool("a", "fd00::/64", "fd00::1-fd00::ffff:ffff:ffff")], reserved(), in_domain("")))
        == MAX_AUDITED
    )


def test_only_what_is_behind_the_interface_is_audited() -> None:
    pools = [pool("a", "10.6.0.0/24", "10.6.0.9"), pool("b", "10.7.0.0/24", "10.7.0.9")]
    second = Network.parse("10.7.0.0/16")
    found = withheld(pools, reserved(), lambda domain, address: domain == "" and address in second)
    assert [str(address) for address in found] == ["10.7.0.9"]


async def test_addresses_in_use_come_first_and_the_table_fits_the_object() -> None:
    clock = ManualClock()
    addresses = [Address.parse(f"10.6.{n // 250}.{n % 250 + 1}") for n in range(AUDIT_MAX + 20)]
    last = str(addresses[-1])
    told: list[int] = []
    segment = Script(clock, {last}, set())
    audit = Audit(segment, clock, lambda: addresses, lambda: told.append(1), interval_s=1.0, per_s=1e9)  # type: ignore[arg-type]
    await drive(clock, audit, addresses)
    entries = audit.entries()
    assert len(entries) == AUDIT_MAX
    assert (entries[0].ip, entries[0].state, entries[0].mac) == (last, "in-use", MAC)
    assert {entry.state for entry in entries[1:]} == {"silent"}
    assert told == [1]
    segment.unknown = {last}
    await drive(clock, audit, addresses[-2:])
    assert [(entry.ip, entry.state) for entry in audit.entries()] == [(last, "in-use"), (str(addresses[-2]), "silent")]
    assert told == [1, 1]


async def drive(clock: ManualClock, audit: Audit, addresses: list[Address]) -> None:
    """One turn, with the pauses between its batches."""
    task = asyncio.ensure_future(audit.turn(addresses))
    for _ in range(len(addresses) + 1):
        await clock.advance(1.0)
    await asyncio.wait_for(task, 1.0)
