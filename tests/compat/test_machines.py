"""Group F: KubeVirt's machines. The objects are those that its controllers write; the machines themselves are not run here."""

from __future__ import annotations

import asyncio

import pytest

from crds.identities import VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from crds.meta import UNSET
from crds.spiderpool import ENDPOINT, IP_POOL
from tests.compat.steps import NETWORKS, Sandbox, asks_each, told
from tests.unit.leader.harness import leader, until
from tests.unit.nodeagent.harness import Lab, eventually
from tests.unit.nodeagent.machines import boot, launcher, machine, migrated, migration, pins, stop

PAIR = {
    NETWORKS: "default/extra",
    **asks_each({"interface": "eth0", "ipv4": ["a"]}, {"interface": "net1", "ipv4": ["b"]}),
}


async def _pools(lab: Lab) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.9", gateway="10.1.1.1", default=True)
    await lab.pool("b", "10.1.2.0/24", "10.1.2.5-10.1.2.9", gateway="10.1.2.1")


@pytest.mark.case("F00001")
async def test_a_machine_keeps_its_address_across_restarts_until_it_is_deleted(lab: Lab) -> None:
    await _pools(lab)
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab):
        before = Sandbox(one, await launcher(lab, vmi, "n1"))
        address = await before.add()

        async def is_shown() -> bool:
            stored = await lab.store.get(IP_POOL, "a")
            assert stored is not None
            text = stored.status.allocated_ips if stored.status is not UNSET else UNSET
            return bool(text) and '"pod":"default/vm"' in str(text)  # under the machine's name, as Spiderpool has it

        await until(is_shown)
        await before.remove()
        await stop(lab, before.pod)
        await lab.store.delete(VIRTUAL_MACHINE_INSTANCE, "vm", namespace="default")  # switched off
        await asyncio.sleep(0.5)  # longer than the leader waits for orphans
        after = Sandbox(two, await launcher(lab, await boot(lab), "n2"))
        assert await after.add() == address
        (shown,) = await told(lab, "vm")
        assert shown.ipv4 == f"{address[0]}/24"
        await after.remove()
        await stop(lab, after.pod)
        await lab.store.delete(VIRTUAL_MACHINE_INSTANCE, "vm", namespace="default")
        await lab.store.delete(VIRTUAL_MACHINE, "vm", namespace="default")

        async def is_gone() -> bool:
            return await pins(lab) == {} and await lab.store.get(ENDPOINT, "vm", "default") is None

        await until(is_gone)


@pytest.mark.case("F00002", "F00003")
@pytest.mark.parametrize("interfaces", [("eth0",), ("eth0", "net1")], ids=["one interface", "two"])
@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_machine_keeps_its_addresses_across_a_live_migration(
    lab: Lab, interfaces: tuple[str, ...], phase: str
) -> None:
    await _pools(lab)
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab):
        source = Sandbox(one, await launcher(lab, vmi, "n1", PAIR))
        before = [await source.add(name) for name in interfaces]
        target = Sandbox(two, await launcher(lab, vmi, "n2", PAIR, migration=await migration(lab, vmi)))
        assert [await target.add(name) for name in interfaces] == before, "while the source lives"
        await migrated(lab, "move", phase)
        ended, stays = (source, target) if phase == "Succeeded" else (target, source)
        await ended.remove(*interfaces)
        await stop(lab, ended.pod)
        await eventually(lambda: not two.pins.migrating and two.outbox.depth == 0)
        stored = await lab.store.get(ENDPOINT, "vm", "default")
        assert stored is not None and stored.status and stored.status.current.uid == stays.pod.uid
        found = {ip.interface: ip.ipv4 for ip in stored.status.current.ips}
        assert found == {name: f"{address}/24" for name, (address,) in zip(interfaces, before, strict=True)}
        assert [await stays.add(name) for name in interfaces] == before


@pytest.mark.case("F00003")
async def test_a_machine_with_several_interfaces_keeps_each_address_across_restarts(lab: Lab) -> None:
    await _pools(lab)
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        before = Sandbox(one, await launcher(lab, vmi, "n1", PAIR))
        addresses = [await before.add(name) for name in ("eth0", "net1")]
        await before.remove("eth0", "net1")
        await stop(lab, before.pod)
        after = Sandbox(two, await launcher(lab, await boot(lab), "n2", PAIR))
        assert [await after.add(name) for name in ("net1", "eth0")] == addresses[::-1]
