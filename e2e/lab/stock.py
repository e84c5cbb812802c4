"""Who may allocate what, read from the API objects alone: leases of IPBlocks, and what IPNodes say of their stock."""

import ipaddress
from collections import Counter
from collections.abc import Iterable

from e2e.lab.api import Api
from e2e.lab.objects import Object, name_of


def slots(text: str) -> list[int]:
    """ "0-2,7" is [0, 1, 2, 7]."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def addresses_of(block: Object, text: str) -> list[str]:
    """The addresses that a text of slots names on the block's page."""
    base = ipaddress.ip_network(block["spec"]["page"]).network_address
    return [str(base + slot) for slot in slots(text)]


async def leases(api: Api) -> dict[str, set[str]]:
    """Node → addresses of its leases."""
    blocks, _ = await api.list("IPBlock")
    found: dict[str, set[str]] = {}
    for block in blocks:
        for lease in block["spec"].get("leases") or ():
            found.setdefault(lease["node"], set()).update(addresses_of(block, lease["slots"]))
    return found


async def suspects(api: Api) -> set[str]:
    """Addresses that were taken by force and not proven since."""
    blocks, _ = await api.list("IPBlock")
    return {address for block in blocks for address in addresses_of(block, block["spec"].get("suspect") or "")}


async def quarantined(api: Api, pools: Iterable[str]) -> int:
    """How many addresses of these pools the nodes hold back because somebody else uses them."""
    wanted = set(pools)
    nodes, _ = await api.list("IPNode")
    stock = [item for node in nodes for item in (node.get("status") or {}).get("pools") or ()]
    return sum(int(item.get("quarantined") or 0) for item in stock if item["name"] in wanted)


async def conflicts(api: Api) -> list[Object]:
    """`status.conflicts` of all nodes, each with its node's name under `node`."""
    nodes, _ = await api.list("IPNode")
    return [
        {**item, "node": name_of(node)} for node in nodes for item in (node.get("status") or {}).get("conflicts") or ()
    ]


async def events(api: Api) -> Counter[tuple[str, str]]:
    """(reason, kind of the object) → how many times it was told, of our own Events."""
    items, _ = await api.list("Event")
    told: Counter[tuple[str, str]] = Counter()
    for item in items:
        if str(item.get("reportingController", "")).startswith("nephila.io/"):
            told[str(item["reason"]), str((item.get("regarding") or {}).get("kind", ""))] += _times(item)
    return told


def _times(event: Object) -> int:
    return int((event.get("series") or {}).get("count") or 1)
