"""What the cluster's agents are configured to do, as far as selection depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from adapters import spiderpool_conf
from adapters.kube.store import Store, StoreError
from cli.failures import CliError
from crds.meta import Kind, KubeObject, constant
from ipam.errors import BadValue
from ipam.facts import Features

LABEL = "app.kubernetes.io/name=nephila"


class ConfigMap(KubeObject):
    api_version: str = constant("v1")
    kind: str = constant("ConfigMap")
    data: dict[str, str] = msgspec.field(default_factory=dict)


CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps", "configmap", True, ConfigMap, ("cm",))


@dataclass(frozen=True, slots=True)
class Settings:
    """`origin` says where they are from, for people; `cluster_network` is the network of `eth0` where pods name none."""

    features: Features
    cluster_network: str
    origin: str


def from_mapping(
    raw: Any, origin: str, agent_namespace: str, spiderpool: Mapping[str, Any] | None = None
) -> Settings | None:
    """An agent's settings file, or its `features` alone; None if neither speaks of features. Raises CliError.

    `spiderpool`: what Spiderpool's own configuration says, which counts where the file is silent.
    """
    if not isinstance(raw, dict):
        return None
    if spiderpool is not None:
        spiderpool_conf.apply(raw, spiderpool, spiderpool_conf.AGENT)
    keys: Mapping[str, Any] = raw["features"] if isinstance(raw.get("features"), dict) else raw
    if not any(key in keys for key in ("enableIPv4", "enableIPv6", "enableSpiderSubnet", "clusterNetwork")):
        return None

    def flag(name: str) -> bool:
        value = keys.get(name, True)
        if not isinstance(value, bool):
            raise CliError(f"{origin}: features.{name}: not a boolean", "write true or false")
        return value

    features = Features(
        ipv4=flag("enableIPv4"),
        ipv6=flag("enableIPv6"),
        subnets=flag("enableSpiderSubnet"),
        auto_pools=flag("enableAutoPoolForApplication"),
        agent_namespace=agent_namespace,
    )
    return Settings(features, str(keys.get("clusterNetwork") or ""), origin)


def from_file(path: Path, agent_namespace: str) -> Settings:
    """`--config FILE`. Raises CliError."""
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise CliError(f"--config {path}: cannot be read: {error.strerror}", "give an existing file") from error
    except yaml.YAMLError as error:
        raise CliError(f"--config {path}: not YAML: {error}", "correct the file") from error
    return from_mapping(raw, str(path), agent_namespace) or defaults(
        agent_namespace, f"{path} has no features; defaults"
    )


def defaults(agent_namespace: str, origin: str) -> Settings:
    """Everything on, as the agent's own defaults."""
    return Settings(Features(subnets=True, auto_pools=True, agent_namespace=agent_namespace), "", origin)


async def from_cluster(store: Store, agent_namespace: str) -> Settings:
    """The first ConfigMap of Nephila's label that speaks of features; else the defaults, and the origin says so."""
    try:
        listing = await store.list(CONFIG_MAP, labels=LABEL)
    except StoreError:
        return defaults(agent_namespace, "defaults (ConfigMaps cannot be read; give --config)")
    for stored in listing.items:
        for key, text in sorted(stored.data.items()):
            try:
                raw = yaml.safe_load(text)
            except yaml.YAMLError:
                continue
            origin = f"ConfigMap {stored.namespace}/{stored.name} {key}"
            mounted = raw.get("spiderpoolConf") if isinstance(raw, dict) else None
            spiderpool = await _mounted(store, stored.namespace, mounted) if isinstance(mounted, str) else None
            found = from_mapping(raw, origin, stored.namespace, spiderpool)
            if found is not None:
                return found
    return defaults(agent_namespace, f"defaults (no ConfigMap with label {LABEL} tells otherwise)")


async def _mounted(store: Store, namespace: str, folder: str) -> Mapping[str, Any] | None:
    """Spiderpool's configuration as the chart mounts it: the folder is named as the ConfigMap. None if it cannot be read."""
    name = Path(folder).name
    try:
        stored = await store.get(CONFIG_MAP, name, namespace)
    except StoreError:
        return None
    if stored is None:
        return None
    origin = f"ConfigMap {namespace}/{name} {spiderpool_conf.CONF}"
    try:
        raw = yaml.safe_load(stored.data.get(spiderpool_conf.CONF, ""))
        return spiderpool_conf.checked(raw, stored.data.get(spiderpool_conf.CLUSTER_NETWORK, ""), origin)
    except (yaml.YAMLError, BadValue) as error:
        raise CliError(f"{origin}: {error}", "correct it: agents refuse to start with it") from error
