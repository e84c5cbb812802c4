"""What a CNI configuration says to the IPAM plugin, and the interfaces a pod gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ipam.errors import BadConfig, NephilaError
from ipam.multus import FIRST_INTERFACE, NETWORKS, parse_networks

IPAM_TYPES = ("nephila", "spiderpool")


@dataclass(frozen=True, slots=True)
class IpamDefaults:
    """The keys of the `ipam` block that selection reads."""

    v4: tuple[str, ...] = ()
    v6: tuple[str, ...] = ()
    clean_gateway: bool = False


def ipam_defaults(text: str, where: str) -> IpamDefaults | None:
    """Of the first plugin of a conf or conflist that uses our IPAM; None if none does. Raises BadConfig naming `where`."""
    try:
        config: Any = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadConfig(f"{where}: not JSON: {error}", "correct the CNI configuration") from error
    for block in _ipam_blocks(config):
        if block.get("type") in IPAM_TYPES:
            return IpamDefaults(
                _names(block, "default_ipv4_ippool", where),
                _names(block, "default_ipv6_ippool", where),
                bool(block.get("clean_gateway", False)),
            )
    return None


def _ipam_blocks(config: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(config, dict):
        return
    plugins = config.get("plugins")
    for plugin in plugins if isinstance(plugins, list) else [config]:
        if isinstance(plugin, dict) and isinstance(plugin.get("ipam"), dict):
            yield plugin["ipam"]


def _names(block: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    listed = block.get(key) or ()
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
        raise BadConfig(f"{where}: ipam.{key}: not a list of names", 'write ["pool"]')
    return tuple(listed)


def interfaces(annotations: Mapping[str, str], namespace: str) -> tuple[str, ...]:
    """`eth0` and what the Multus annotation adds; only `eth0` if that annotation is broken (its own ADD says why)."""
    try:
        more = parse_networks(annotations.get(NETWORKS, ""), namespace)
    except NephilaError:
        return (FIRST_INTERFACE,)
    return (FIRST_INTERFACE, *(ref.interface for ref in more))
