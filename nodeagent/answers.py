"""What an interface is told: its addresses, gateways and routes, from the pools as they are now. The address itself is what was granted."""

from __future__ import annotations

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


def add_result(request: CniRequest, attachment: Attachment, pod: Pod | None, catalog: Catalog, *, clean: bool) -> bytes:
    """The success object of an ADD, for the interface at hand alone. `clean`: without the gateways' default routes."""
    asked = pod_routes(pod)
    ips: list[ResultIP] = []
    routes: list[Route] = []
    for grant in attachment.grants:
        pool = catalog.get(grant.pool)
        gateway = str(pool.gateway) if pool and pool.gateway else ""
        ips.append(ResultIP(grant.slot.family, with_prefix(grant, pool), gateway))
        if pool is not None:
            routes += interface_routes(pool, asked, clean=clean)
    return result(request.version, tuple(ips), tuple((str(route.dst), str(route.gw)) for route in routes))


def interface_routes(pool: Pool, asked: tuple[Route, ...], *, clean: bool) -> tuple[Route, ...]:
    """Of one address: gateway, pool and pod, each above the one before; pod routes go to the interface that holds their gateway."""
    return result_routes(
        pool.subnet, gateway=pool.gateway, clean_gateway=clean, pool_routes=pool.routes, pod_routes=asked
    )
