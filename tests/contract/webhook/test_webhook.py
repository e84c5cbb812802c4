"""The webhook through an API server: what it fills in, what it refuses, what happens without it, and how its certificate changes."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

import pytest

from adapters.clock import SystemClock
from adapters.kube.store import Deleted, Refused, Stored, Unknown
from crds import convert
from crds.admission import VALIDATING, secret_text
from crds.core import SECRET
from crds.meta import UNSET
from crds.policies import NAMESPACE as OURS
from crds.spiderpool import FINALIZER, IP_POOL, RESERVED_IP, SUBNET
from crds.webhooks import NAME
from ipam.overlaps import arbitrate
from tests.contract.webhook.conftest import HOST, SECRET_NAME, Ground
from tests.unit.leader.harness import until

pytestmark = pytest.mark.timeout(180)
ROUTES = [{"dst": "10.9.0.0/16", "gw": "10.1.0.2"}]


def refused(outcome: object, *parts: str) -> None:
    assert isinstance(outcome, Refused), outcome
    assert outcome.status == 422, outcome
    for part in parts:
        assert part in outcome.message, outcome.message


async def in_use(ground: Ground, name: str, **uses: str) -> None:
    """As the leader tells it."""
    text = json.dumps({ip.replace("_", "."): {"pod": pod, "podUid": "u"} for ip, pod in uses.items()})
    status = {"status": {"allocatedIPs": text, "allocatedIPCount": len(uses)}}
    assert isinstance(await ground.store.patch(IP_POOL, name, status, subresource="status"), Stored)


async def test_what_follows_is_there_when_the_object_is_stored(webhooked: Ground) -> None:
    made = await webhooked.subnet(
        "s4", "10.1.0.20", "10.1.0.1-10.1.0.10", "10.1.0.11", gateway="10.1.0.99", routes=ROUTES
    )
    assert isinstance(made, Stored)
    assert made.object.spec.ips == ("10.1.0.1-10.1.0.11", "10.1.0.20")
    assert made.object.spec.ip_version == 4 and made.object.metadata.finalizers == (FINALIZER,)
    assert made.object.labels == {"ipam.spidernet.io/subnet-cidr": "10-1-0-0-24"}
    outcome = await webhooked.pool("p", "10.1.0.6", "10.1.0.1-10.1.0.5")
    assert isinstance(outcome, Stored)
    pool = outcome.object
    assert (pool.spec.ips, pool.spec.ip_version, pool.spec.gateway) == (("10.1.0.1-10.1.0.6",), 4, "10.1.0.99")
    assert [(route.dst, route.gw) for route in pool.spec.routes] == [("10.9.0.0/16", "10.1.0.2")]
    assert pool.metadata.finalizers == (FINALIZER,)
    assert pool.labels == {
        "ipam.spidernet.io/ippool-cidr": "10-1-0-0-24",
        "ipam.spidernet.io/owner-spider-subnet": "s4",
    }
    assert pool.controller is not None and pool.controller.uid == made.object.uid
    reserved = await webhooked.made(RESERVED_IP, "r", spec={"ips": ["10.1.0.1-10.1.0.3"]})  # may overlap
    assert reserved.spec.ip_version == 4


async def test_refusals_name_the_field_the_other_object_and_the_fix(webhooked: Ground) -> None:
    store = webhooked.store
    assert isinstance(await webhooked.pool("p", "10.1.0.1-10.1.0.9"), Stored)
    refused(
        await webhooked.pool("q", "10.1.0.9-10.1.0.20"),
        'SpiderIPPool "q" is refused: spec.ips: 10.1.0.9 belongs to SpiderIPPool p too',
        "exclude it in SpiderIPPool p",
    )
    refused(await webhooked.pool("q", "10.1.0.20", subnet="10.1.0.0/25"), "spec.subnet", "of SpiderIPPool p")
    refused(await webhooked.subnet("s4", "10.1.0.5-10.1.0.99"), "spec.ips", "SpiderIPPool p")
    refused(
        await webhooked.create(RESERVED_IP, "r", spec={"ips": ["fd00::9-fd00::1"]}),
        "spec.ips[0]",
        "write fd00::1-fd00::9",
    )
    assert isinstance(await webhooked.subnet("s4", "10.1.0.1-10.1.0.99"), Stored)
    refused(await webhooked.subnet("s5", "10.1.0.100"), "overlaps 10.1.0.0/24 of SpiderSubnet s4")
    refused(await webhooked.pool("q", "10.1.0.100"), "not among the addresses of SpiderSubnet s4")
    refused(
        await store.patch(SUBNET, "s4", {"spec": {"ips": ["10.1.0.9-10.1.0.99"]}}),
        "10.1.0.1-10.1.0.8 of SpiderIPPool p",
    )
    await in_use(webhooked, "p", **{"10_1_0_3": "default/web"})
    refused(await store.patch(IP_POOL, "p", {"spec": {"ips": ["10.1.0.4-10.1.0.9"]}}), "10.1.0.3 (pod default/web)")
    refused(await store.patch(IP_POOL, "p", {"spec": {"excludeIPs": ["10.1.0.3"]}}), "spec.excludeIPs: excludes")
    refused(await store.delete(IP_POOL, "p"), "has 1 addresses in use, by default/web")
    assert isinstance(await store.patch(IP_POOL, "p", {"spec": {"ips": ["10.1.0.3"]}}), Stored)
    assert isinstance(await store.patch(IP_POOL, "p", {"metadata": {"labels": {convert.OWNER_SUBNET: "s4"}}}), Stored)
    refused(await store.delete(SUBNET, "s4"), "SpiderSubnet s4 is in use by SpiderIPPool p")
    await store.patch(IP_POOL, "p", {"status": {"allocatedIPs": None, "allocatedIPCount": 0}}, subresource="status")
    assert isinstance(await store.delete(IP_POOL, "p"), Stored)  # its finalizer is the leader's


async def test_an_object_that_broke_a_rule_before_can_still_be_marked_and_let_go(ground: Ground) -> None:
    """A pool that was stored while the webhook was off, with a gateway among its addresses and an overlap."""
    assert isinstance(await ground.pool("a", "10.1.0.1-10.1.0.9", gateway="10.1.0.1"), Stored)
    assert isinstance(await ground.pool("b", "10.1.0.1-10.1.0.9", gateway="10.1.0.1"), Stored)
    async with ground.leading():
        await ground.show_secret()
        await ground.serve()
        await ground.configure("Fail")
        await ground.until("conflicts with gateway")
    store = ground.store
    assert isinstance(await store.patch(IP_POOL, "b", {"metadata": {"labels": {"team": "red"}}}), Stored)
    assert isinstance(await store.patch(IP_POOL, "b", {"spec": {"disable": True}}), Stored)
    assert isinstance(await store.patch(IP_POOL, "b", {"spec": {"ips": ["10.1.0.5-10.1.0.9"]}}), Stored)
    refused(await store.patch(IP_POOL, "b", {"spec": {"ips": ["10.1.0.2-10.1.0.9"]}}), "10.1.0.2-10.1.0.4 belongs to")
    assert isinstance(await store.patch(IP_POOL, "b", {"metadata": {"finalizers": None}}), Stored)


@pytest.mark.parametrize("webhook", ["on", "off"])
async def test_a_hundred_overlapping_objects_at_once_leave_one_usable(ground: Ground, webhook: str) -> None:
    async with ground.leading():
        await ground.show_secret()
        if webhook == "on":
            await ground.serve()
            await ground.configure("Fail")
            await ground.until("conflicts with gateway")
        made = await asyncio.gather(*(ground.pool(f"p{i:02}", "10.1.0.1-10.1.0.9") for i in range(100)))
        stored = [one.object.name for one in made if isinstance(one, Stored)]
        assert stored and (webhook == "on" or len(stored) == 100)
        assert [one for one in made if not isinstance(one, Stored | Refused)] == []

        async def judged() -> bool:
            found = (await ground.store.list(IP_POOL)).items
            said = [_reason(pool, "Overlapping") for pool in found]
            alone = ["Disjoint"] if len(stored) == 1 else ["YoungerPoolLoses"]
            return sorted(said) == sorted(alone + ["OlderPoolWins"] * (len(stored) - 1))

        await until(judged, 20.0)
        pools = [convert.pool(pool) for pool in (await ground.store.list(IP_POOL)).items]
        usable = [name for name, addresses in arbitrate(pools, {}).items() if addresses]
        assert len(usable) == 1
        losers = [name for name in stored if name != usable[0]]
        for name in losers[:3]:
            assert isinstance(await ground.store.patch(IP_POOL, name, {"spec": {"ips": ["10.1.0.1-10.1.0.4"]}}), Stored)
        gone = await asyncio.gather(*(ground.store.delete(IP_POOL, name) for name in losers))
        assert all(isinstance(one, Stored | Deleted) for one in gone)

        async def one_left() -> bool:
            return [pool.name for pool in (await ground.store.list(IP_POOL)).items] == usable

        await until(one_left, 30.0)
        nets = await asyncio.gather(*(ground.subnet(f"s{i:02}", "10.2.0.1", subnet="10.2.0.0/24") for i in range(100)))
        kept = [one.object.name for one in nets if isinstance(one, Stored)]

        async def one_serves() -> bool:
            said = sorted(_reason(subnet, "Ready") for subnet in (await ground.store.list(SUBNET)).items)
            return said == ["Closed"] * (len(kept) - 1) + ["Serving"]

        await until(one_serves, 30.0)
        others = [one.name for one in (await ground.store.list(SUBNET)).items if _reason(one, "Ready") == "Closed"]
        for name in others[:3]:
            assert isinstance(await ground.store.patch(SUBNET, name, {"spec": {"ips": ["10.2.0.1-10.2.0.9"]}}), Stored)
        for name in others:
            assert isinstance(await ground.store.delete(SUBNET, name), Stored | Deleted)


def _reason(stored: Any, kind: str) -> str:
    conditions = stored.status.conditions if stored.status is not UNSET else ()
    return next((item.reason for item in conditions if item.type == kind), "")


async def test_without_the_webhook_its_policy_decides(webhooked: Ground) -> None:
    assert isinstance(await webhooked.pool("p", "10.1.0.1-10.1.0.9"), Stored)
    await webhooked.stop_serving()
    outcome = await webhooked.pool("q", "10.1.0.9")
    assert isinstance(outcome, Unknown) and "500" in outcome.cause and "failed calling webhook" in outcome.cause
    assert await webhooked.store.get(IP_POOL, "q") is None
    await webhooked.configure("Ignore")

    async def stored() -> bool:
        return isinstance(await webhooked.pool("q", "10.1.0.9"), Stored)

    await until(stored, 20.0)
    async with webhooked.leading():  # what admission did not fill in, the leader does

        async def filled() -> bool:
            found = await webhooked.store.get(IP_POOL, "q")
            return found is not None and found.spec.ip_version == 4 and found.metadata.finalizers == (FINALIZER,)

        await until(filled, 10.0)
    await webhooked.serve()
    await webhooked.until("conflicts with gateway")


async def test_the_certificate_changes_without_a_refusal_in_between(ground: Ground) -> None:
    """Made 300 days ago, prepared two hours ago, served from now: each time the API server trusts what is served."""
    for days, hours, certificates in ((300, 0, 1), (0, 2, 2), (0, 0, 2)):
        async with ground.leading(Past(days * 86400.0 + hours * 3600.0)):

            async def settled(expected: int = certificates, waiting: int = hours) -> bool:
                stored = await ground.store.get(SECRET, SECRET_NAME, OURS)
                assert stored is not None
                prepared = bool(secret_text(stored, "next.crt"))
                whole = secret_text(stored, "ca.crt").count("BEGIN") == expected
                return whole and prepared == (waiting > 0) and bool(secret_text(stored, "tls.crt"))

            await until(settled, 30.0)
            before = await _served(ground) if ground.server is not None else b""
            await ground.show_secret()
            if ground.server is None:
                await ground.serve()
                await ground.configure("Fail")
            await ground.until("conflicts with gateway")
            if days == hours == 0:

                async def renewed(old: bytes = before) -> bool:
                    return await _served(ground) != old

                await until(renewed, 15.0)
                await ground.until("conflicts with gateway")


async def _served(ground: Ground) -> bytes:
    """The certificate that a new connection gets, verified against what the API server is told to trust."""
    stored = await ground.store.get(VALIDATING, NAME)
    secret = await ground.store.get(SECRET, SECRET_NAME, OURS)
    assert ground.server is not None and stored is not None and stored.webhooks and secret is not None
    context = ssl.create_default_context(cadata=secret_text(secret, "ca.crt"))
    _, writer = await asyncio.open_connection("127.0.0.1", ground.server.port, ssl=context, server_hostname=HOST)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return found


class Past(SystemClock):
    """A clock that shows an earlier date; intervals are as they are."""

    def __init__(self, back_s: float) -> None:
        self._back_s = back_s

    def wall(self) -> float:
        return super().wall() - self._back_s
