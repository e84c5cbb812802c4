"""What the lease protocol writes passes the rules that guard it: each step is stored by the API server, none is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from crds.blocks import block_changes, block_from_wire, block_to_wire
from crds.nephila import IP_BLOCK
from ipam import lease
from ipam.addresses import Family
from ipam.blocks import Block, Cooling, Holder, NodeRef, PinOwner
from ipam.slots import Page
from tests.contract.crds.conftest import Api

ONE, TWO = NodeRef("n1", "uid-1"), NodeRef("n2", "uid-2")
AGAIN = NodeRef("n1", "uid-3")
OWNER = PinOwner("StatefulSet", "default", "web-0", "eth0", "uid-web")
FIRST, SECOND = Holder("n1", "pod-1"), Holder("n2", "pod-2")

# Each step is one compare-and-swap: from the block as stored to the next one.
STEPS: tuple[Callable[[Block], Block], ...] = (
    lambda block: lease.claim(block, ONE, 0xFF),
    lambda block: lease.claim(block, TWO, 0xFF00),
    lambda block: lease.claim(block, ONE, 1 << 63),
    lambda block: lease.give_back(block, ONE, 0b11, [Cooling(0b11, 1_800_000_000.5)]),
    lambda block: lease.pin(block, ONE, 4, OWNER, FIRST),
    lambda block: lease.vacate_pin(block, ONE, 4, "pod-1"),
    lambda block: lease.move_pin(block, OWNER, TWO, SECOND),
    lambda block: lease.retake(block, AGAIN, ONE, _epoch(block, ONE)),
    lambda block: lease.reclaim(block, block.leases_named("n1")[0], 1 << 63, term=7),
    lambda block: lease.claim(block, TWO, 1 << 63),
    lambda block: lease.clear_suspect(block, TWO, 1 << 63),
    lambda block: lease.give_back(block, TWO, (1 << 64) - 1, []),
    lambda block: lease.give_back(block, AGAIN, (1 << 64) - 1, []),
)


def _epoch(block: Block, node: NodeRef) -> int:
    held = block.lease_of(node)
    assert held is not None
    return held.epoch


@pytest.fixture(
    params=[Page(Family.V4, 0x0A060040), Page(Family.V6, 0xFD << 120, "rack-1.b")], ids=lambda page: page.name
)
def page(request: pytest.FixtureRequest, api: Api) -> Iterator[Page]:
    wanted: Page = request.param
    api.request("DELETE", IP_BLOCK.path(name=wanted.name))
    yield wanted
    api.request("DELETE", IP_BLOCK.path(name=wanted.name))


def test_every_step_of_the_lease_protocol_is_stored_as_written(api: Api, page: Page) -> None:
    block = lease.new_block(page, seed=(1 << lease.SEED_BITS) - 1)
    answer = api.request("POST", IP_BLOCK.path(), msgspec.to_builtins(block_to_wire(block)))
    assert answer.status == 201, answer.message
    for number, step in enumerate(STEPS):
        before, block = block, step(block)
        assert block is not before, f"step {number} changes nothing"
        version = answer.body["metadata"]["resourceVersion"]
        changes = {"metadata": {"resourceVersion": version}, **block_changes(block)}
        answer = api.request("PATCH", IP_BLOCK.path(name=page.name), changes)
        assert answer.status == 200, f"step {number}: {answer.message}"
        assert block_from_wire(IP_BLOCK.from_builtins(answer.body)) == block


def test_what_a_stale_picture_would_write_is_refused_even_without_a_version(api: Api, page: Page) -> None:
    block = lease.claim(lease.new_block(page, seed=5), ONE, 0xFF)
    api.request("POST", IP_BLOCK.path(), msgspec.to_builtins(block_to_wire(block)))
    mine, theirs = lease.claim(block, ONE, 0x100), lease.claim(block, TWO, 0x100)
    assert api.request("PATCH", IP_BLOCK.path(name=page.name), block_changes(mine)).status == 200
    refused = api.request("PATCH", IP_BLOCK.path(name=page.name), block_changes(theirs))
    assert refused.status == 422
    assert "epoch must grow at every change" in refused.message
