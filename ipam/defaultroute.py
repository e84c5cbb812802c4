"""Which interface of a pod gets the default route.

Spiderpool leaves this to its `coordinator` plugin, which moves routes about inside the pod. An IPAM can do less, and need not do more: it leaves the
default route out of the answer for every interface but one. That one is the interface named by the annotation `default-route-nic`, else `eth0`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipam import annotations as notes
from ipam.errors import BadAnnotation
from ipam.facts import NicFacts, PodFacts
from ipam.multus import FIRST_INTERFACE, NETWORKS, parse_networks

DEFAULT_ROUTE_NIC = "ipam.spidernet.io/default-route-nic"


def lacks_default_route(pod: PodFacts, nic: NicFacts, *, stated: bool | None) -> bool:
    """Whether the interface gets no default route by way of its gateway. `stated`: what its item of `ippools` says of `cleangateway`.

    An interface that shall have none never gets one. Without the annotation, an interface other than `eth0` gets one only if its item says
    `cleangateway: false`: two default routes in one pod would leave the choice to the order in which interfaces come up.
    """
    clean = nic.clean_gateway if stated is None else stated
    chosen = pod.annotations.get(DEFAULT_ROUTE_NIC, "")
    if chosen:
        return clean or nic.interface != chosen
    return clean or (stated is None and nic.interface != FIRST_INTERFACE)


def require_known(annotations: Mapping[str, str], namespace: str, being_set_up: str) -> None:
    """Raises BadAnnotation if `default-route-nic` names an interface that the pod does not have: it would be left without a default route."""
    chosen = annotations.get(DEFAULT_ROUTE_NIC, "")
    if not chosen:
        return
    known = {FIRST_INTERFACE, being_set_up}
    known.update(ref.interface for ref in parse_networks(annotations.get(NETWORKS, ""), namespace))
    known.update(_named(annotations))
    if chosen not in known:
        raise BadAnnotation(
            DEFAULT_ROUTE_NIC,
            f"{chosen!r} does not exist in the pod, which has {', '.join(sorted(known))}",
            "name one of these, or remove the annotation",
        )


def _named(annotations: Mapping[str, str]) -> set[str]:
    """Interfaces that the pool annotations speak of."""
    found: set[str] = set()
    if (text := annotations.get(notes.IPPOOLS)) is not None:
        found.update(request.interface for request in notes.parse_ippools(text) if request.interface)
    if (text := annotations.get(notes.SUBNETS)) is not None:
        found.update(request.interface for request in notes.parse_subnets(text))
    return found
