"""Cases of Spiderpool's coordinator that an IPAM decides: which interface gets the default route, and which routes each gets."""

from __future__ import annotations

import pytest

from tests.compat.steps import NETWORKS, Sandbox, asks_each, held, pod, told
from tests.unit.nodeagent.harness import Lab, eventually

CHOICE = "ipam.spidernet.io/default-route-nic"


async def _routes(lab: Lab, interfaces: tuple[str, ...], notes: dict[str, str]) -> dict[str, list[str]]:
    """Of a pod with one pool per interface: the destinations of each interface's routes."""
    for number in range(len(interfaces)):
        subnet = f"10.1.{number}"
        route = {"dst": f"10.9.{number}.0/24", "gw": f"{subnet}.2"}
        await lab.pool(f"p{number}", f"{subnet}.0/24", f"{subnet}.5-{subnet}.9", gateway=f"{subnet}.1", routes=[route])
    items = [{"interface": name, "ipv4": [f"p{number}"]} for number, name in enumerate(interfaces)]
    async with lab.agent("n1") as agent:
        one = Sandbox(agent, await pod(lab, "p", annotations={**asks_each(*items), **notes}))
        found = {name: [item["dst"] for item in (await one.answer(name))["routes"]] for name in interfaces}
        await eventually(lambda: agent.outbox.depth == 0)
        shown = {ip.interface: bool(ip.clean_gateway) for ip in await told(lab, "p")}
    assert shown == {name: "0.0.0.0/0" not in routes for name, routes in found.items()}
    return found


@pytest.mark.case("A00012", "C00005", "C00006", "C00020")
@pytest.mark.parametrize("chosen", ["eth0", "net1", "net2"])
async def test_the_named_interface_alone_gets_the_default_route(lab: Lab, chosen: str) -> None:
    found = await _routes(lab, ("eth0", "net1", "net2"), {CHOICE: chosen})
    assert [name for name, routes in found.items() if "0.0.0.0/0" in routes] == [chosen]
    assert all(f"10.9.{number}.0/24" in routes for number, routes in enumerate(found.values()))


@pytest.mark.case("C00011")
async def test_eth0_has_the_default_route_where_nobody_says_otherwise(lab: Lab) -> None:
    assert await _routes(lab, ("eth0", "net1"), {}) == {"eth0": ["0.0.0.0/0", "10.9.0.0/24"], "net1": ["10.9.1.0/24"]}


@pytest.mark.case("C00014")
async def test_an_interface_that_does_not_exist_fails_the_pod(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.12", gateway="10.6.0.1", default=True)
    async with lab.agent("n1") as agent:
        made = await pod(lab, "p", annotations={NETWORKS: "default/extra", CHOICE: "net3"})
        error = await Sandbox(agent, made).refused()
        assert error["code"] == 101 and CHOICE in error["msg"] and "'net3' does not exist in the pod" in error["msg"]
        assert held(agent) == set()


@pytest.mark.case("C00015")
@pytest.mark.parametrize("networks", ["default/extra@nicx7q", '[{"name":"extra","interface":"nicx7q"}]'])
async def test_interfaces_of_any_name(lab: Lab, networks: str) -> None:
    found = await _routes(lab, ("eth0", "nicx7q"), {NETWORKS: networks, CHOICE: "nicx7q"})
    assert [name for name, routes in found.items() if "0.0.0.0/0" in routes] == ["nicx7q"]
