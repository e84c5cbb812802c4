"""Spiderpool's own configuration (`spiderpool-conf`), taken as it is: each key is honoured, replaced by something else, or ignored for a reason.

`KEYS` is what the programs read, and what docs/reference/spiderpool-conf.md is made of. What a settings file of ours says itself wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import structlog
import yaml

from ipam.errors import BadValue

log = structlog.get_logger(__name__)

AGENT, LEADER = "agent", "leader"
CONF, CLUSTER_NETWORK = "conf.yml", "clusterNetwork"


class Verdict(Enum):
    HONOURED = "honoured"
    REPLACED = "replaced by"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `targets`: (program, path) of our settings that it sets; `why` is for people."""

    name: str
    verdict: Verdict
    why: str
    type: type = object
    targets: tuple[tuple[str, str], ...] = ()


def _honoured(name: str, kind: type, why: str, *targets: tuple[str, str]) -> Key:
    return Key(name, Verdict.HONOURED, why, kind, targets)


def _features(name: str) -> tuple[str, str]:
    return AGENT, f"features.{name}"


def _applications(name: str) -> tuple[str, str]:
    return LEADER, f"applications.{name}"


_NUMBER = "clusterSubnetDefaultFlexibleIPNumber"

KEYS: tuple[Key, ...] = (
    *(
        _honoured(name, bool, "", _features(name), _applications(name))
        for name in ("enableIPv4", "enableIPv6", "enableSpiderSubnet", "enableAutoPoolForApplication")
    ),
    _honoured("enableStatefulSet", bool, "", _features("enableStatefulSet")),
    _honoured("enableKubevirtStaticIP", bool, "", _features("enableKubevirtStaticIP")),
    _honoured(
        "enableValidatingResourcesDeletedWebhook",
        bool,
        "where the webhook is on; not given, it counts as true",
        _features("enableValidatingResourcesDeletedWebhook"),
    ),
    _honoured(_NUMBER, int, "", _applications(_NUMBER)),
    _honoured(
        "clusterSubnetAutoPoolDefaultRedundantIPNumber",
        int,
        "the name that Spiderpool's code reads since v1.0; wins over the one above",
        _applications(_NUMBER),
    ),
    _honoured(
        CLUSTER_NETWORK,
        str,
        f"an entry of the ConfigMap beside `{CONF}` (`MULTUS_CLUSTER_NETWORK` of Spiderpool's agent)",
        _features(CLUSTER_NETWORK),
    ),
    Key(
        "ipamUnixSocketPath",
        Verdict.REPLACED,
        "the agent's `socket`, and `ipam_unix_socket_path` in a network that uses another one",
    ),
    Key(
        "enableIPConflictDetection",
        Verdict.REPLACED,
        "the agent's `parent`: where it is set, every address is probed, ahead of time and not while the pod waits",
    ),
    Key(
        "enableCleanOutdatedEndpoint",
        Verdict.REPLACED,
        "the leader's `sweep`, which is always on: it removes a record only after its pod was seen gone for `sweep.orphanS`",
    ),
    Key(
        "enableGatewayDetection",
        Verdict.REPLACED,
        "the agent's `probe.gateway`: gateways are asked ahead of any pod; with `require`, a pool whose gateway is silent gives no address",
    ),
    Key("tuneSysctlConfig", Verdict.IGNORED, "no sysctl of the host is changed"),
    Key("podResourceInject", Verdict.IGNORED, "pods are not changed at admission"),
    Key("agent", Verdict.IGNORED, "`agent.networkResourcePlugin`: there is no device plugin"),
    Key("iaasNetworkProvider", Verdict.IGNORED, "addresses are never asked of a cloud"),
)
_BY_NAME = {key.name: key for key in KEYS}
_TYPES = {bool: "true or false", int: "a whole number", str: "a text"}


def read(path: Path) -> dict[str, Any]:
    """The keys that a file like `conf.yml` gives, or a folder where the ConfigMap is mounted. Raises BadValue."""
    file = path / CONF if path.is_dir() else path
    try:
        raw = yaml.safe_load(file.read_text())
        network = (path / CLUSTER_NETWORK).read_text().strip() if (path / CLUSTER_NETWORK).is_file() else ""
    except OSError as error:
        raise BadValue(str(file), f"cannot be read: {error.strerror}", f"mount a ConfigMap with {CONF}") from error
    except yaml.YAMLError as error:
        raise BadValue(str(file), f"is not YAML: {error}", "correct it") from error
    return checked(raw, network, str(file))


def checked(raw: object, cluster_network: str, where: str) -> dict[str, Any]:
    """What `conf.yml` holds once parsed. An unknown key is told, not refused: Spiderpool takes such files too. Raises BadValue."""
    if raw is not None and not isinstance(raw, dict):
        raise BadValue(where, "is not a list of keys and values", "write it as Spiderpool's chart does")
    found: dict[str, Any] = dict(raw or {})
    if cluster_network:
        found.setdefault(CLUSTER_NETWORK, cluster_network)
    for name, value in found.items():
        key = _BY_NAME.get(name)
        if key is None:
            log.warning("spiderpool_key_unknown", key=name, file=where)
        elif key.verdict is Verdict.HONOURED and type(value) is not key.type:
            raise BadValue(f"{where}: {name}", f"{value!r} is not {_TYPES[key.type]}", "correct the value")
    return found


def apply(settings: dict[str, Any], given: Mapping[str, Any], program: str) -> None:
    """Put what a program honours into its raw settings, where they do not say it themselves."""
    ours = {path: _get(settings, path) is not None for key in KEYS for _, path in key.targets}
    for key in KEYS:
        if key.name not in given:
            continue
        for to, path in key.targets:
            section, _, name = path.partition(".")
            if to == program and not ours[path] and isinstance(settings.setdefault(section, {}), dict):
                settings[section][name] = given[key.name]


def extend(settings: Any, program: str) -> None:
    """Of raw settings that name a file or folder in `spiderpoolConf`. Raises BadValue."""
    where = settings.get("spiderpoolConf") if isinstance(settings, dict) else None
    if isinstance(where, str) and where:
        apply(settings, read(Path(where)), program)


def _get(settings: Mapping[str, Any], path: str) -> Any:
    section, _, name = path.partition(".")
    part = settings.get(section)
    return part.get(name) if isinstance(part, Mapping) else None
