"""What an interface is told: its addresses, gateways and routes, from the pools as they are now. The address itself is what was granted."""

from __future__ import annotations

import msgspec
import structlog

from crds.core import Pod
from ipam import annotations as notes
from ipam.catalog import Catalog
from ipam.errors import NephilaError
from ipam.pools import Pool
from ipam.routes import Route, result_routes
from nodeagent.allocator import Attachment, Grant
from nodeagent.request import CniRequest, ResultIP, result

log = structlog.get_logger(__name__)

MAX_TOLD = 4096  # pools, each with and without its gateway's route


def pod_routes(pod: Pod | None) -> tuple[Route, ...]:
    """The routes that the pod's annotation asks for; none if it was made unreadable after the pod got its addresses."""
    text = pod.annotations.get(notes.ROUTES, "") if pod is not None else ""
    try:
        return notes.parse_routes(text) if text else ()
    except NephilaError as error:
        log.warning("routes_unreadable", namespace=pod.namespace if pod else "", error=str(error))
        return ()


def with_prefix(grant: Grant, pool: Pool | None) -> str:
    """The address with the prefix length of its pool's subnet; on its own if the pool was deleted since."""
    return f"{grant.slot.address}/{pool.subnet.prefix if pool else grant.slot.family.bits}"


class _Told(msgspec.Struct, frozen=True):
    """What a pool contributes to every answer about it; `pool` is the picture that it was made of."""

    pool: Pool
    suffix: str
    gateway: str
    routes: tuple[tuple[str, str], ...]


class Answers:
    """Makes the success objects of ADDs, for the interface at hand alone. What a pool contributes is remembered until the pool is edited."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, bool], _Told] = {}

    def add_result(
        self, request: CniRequest, attachment: Attachment, pod: Pod | None, catalog: Catalog, *, clean: bool
    ) -> bytes:
        """`clean`: without the gateways' default routes."""
        asked = pod_routes(pod)
        ips: list[ResultIP] = []
        routes: tuple[tuple[str, str], ...] = ()
        for grant in attachment.grants:
            slot, pool = grant.slot, catalog.get(grant.pool)
            if pool is None:  # deleted since: the address stays with its pod, on its own
                ips.append(ResultIP(slot.family, f"{slot.address}/{slot.family.bits}", ""))
                continue
            told = _told(pool, asked, clean=clean) if asked else self._of(pool, clean=clean)
            ips.append(ResultIP(slot.family, f"{slot.address}{told.suffix}", told.gateway))
            routes += told.routes
        return result(request.version, tuple(ips), routes)

    def _of(self, pool: Pool, *, clean: bool) -> _Told:
        known = self._told.get((pool.name, clean))
        if known is None or known.pool is not pool:
            if len(self._told) >= MAX_TOLD:
                self._told.clear()
            known = self._told[pool.name, clean] = _told(pool, (), clean=clean)
        return known


def _told(pool: Pool, asked: tuple[Route, ...], *, clean: bool) -> _Told:
    gateway = str(pool.gateway) if pool.gateway else ""
    routes = tuple((str(route.dst), str(route.gw)) for route in interface_routes(pool, asked, clean=clean))
    return _Told(pool, f"/{pool.subnet.prefix}", gateway, routes)


def interface_routes(pool: Pool, asked: tuple[Route, ...], *, clean: bool) -> tuple[Route, ...]:
    """Of one address: gateway, pool and pod, each above the one before; pod routes go to the interface that holds their gateway."""
    return result_routes(
        pool.subnet, gateway=pool.gateway, clean_gateway=clean, pool_routes=pool.routes, pod_routes=asked
    )
