"""Which source of pool names speaks for an interface, and why each earlier one is silent."""

from __future__ import annotations

from cli.output import Record
from ipam import annotations as notes
from ipam.catalog import Catalog
from ipam.errors import NephilaError
from ipam.facts import Features, NicFacts, PodFacts
from ipam.selection import Source

CHOSEN, SILENT, NOT_ASKED = "chosen", "silent", "not asked"


class SourceSaid(Record):
    """`verdict` is `chosen`, `silent` or `not asked` (an earlier source decides)."""

    source: str
    verdict: str
    why: str


def said(
    pod: PodFacts, nic: NicFacts, catalog: Catalog, features: Features, *, netconf_known: bool
) -> tuple[SourceSaid, ...]:
    """Every source in order of precedence."""
    found: list[SourceSaid] = []
    decided = False
    for source in Source:
        if decided:
            found.append(SourceSaid(source=source.value, verdict=NOT_ASKED, why="an earlier source decides"))
            continue
        speaks, why = _statement(source, pod, nic, catalog, features, netconf_known=netconf_known)
        decided = speaks
        found.append(SourceSaid(source=source.value, verdict=CHOSEN if speaks else SILENT, why=why))
    return tuple(found)


def _statement(
    source: Source, pod: PodFacts, nic: NicFacts, catalog: Catalog, features: Features, *, netconf_known: bool
) -> tuple[bool, str]:
    match source:
        case Source.POD_SUBNETS:
            return _subnets(pod, features)
        case Source.POD_SUBNET:
            return _subnet(pod, nic, features)
        case Source.POD_IPPOOLS:
            return _annotation(pod, notes.IPPOOLS)
        case Source.POD_IPPOOL:
            return _annotation(pod, notes.IPPOOL)
        case Source.NAMESPACE:
            return _namespace(pod)
        case Source.NETCONF:
            if nic.default_v4 or nic.default_v6:
                return True, f"it names {', '.join((*nic.default_v4, *nic.default_v6))}"
            return False, "it names none" if netconf_known else "not known here, taken as naming none (--netconf FILE)"
        case Source.CLUSTER:
            named = [pool.name for pool in catalog if pool.default]
            return bool(named), ", ".join(named) if named else "no pool is marked as default"


def _annotation(pod: PodFacts, key: str) -> tuple[bool, str]:
    return (True, pod.annotations[key]) if key in pod.annotations else (False, "not set")


def _subnets(pod: PodFacts, features: Features) -> tuple[bool, str]:
    speaks, why = _annotation(pod, notes.SUBNETS)
    if speaks and not features.subnets:
        return False, "set, but SpiderSubnets are switched off (enableSpiderSubnet)"
    return speaks, why


def _subnet(pod: PodFacts, nic: NicFacts, features: Features) -> tuple[bool, str]:
    speaks, why = _annotation(pod, notes.SUBNET)
    if not speaks:
        return False, why
    if not features.subnets:
        return False, "set, but SpiderSubnets are switched off (enableSpiderSubnet)"
    try:
        interface = notes.parse_subnet(why).interface
    except NephilaError:
        return True, why
    return (True, why) if interface == nic.interface else (False, f"it speaks of {interface} only")


def _namespace(pod: PodFacts) -> tuple[bool, str]:
    keys = [key for key in notes.NAMESPACE_POOLS.values() if key in pod.namespace_annotations]
    if not keys:
        return False, f"namespace {pod.namespace} has no annotation {' or '.join(notes.NAMESPACE_POOLS.values())}"
    text = ", ".join(f"{key}: {pod.namespace_annotations[key]}" for key in keys)
    try:
        return bool(notes.parse_namespace_pools(pod.namespace_annotations)), text
    except NephilaError:
        return True, text
