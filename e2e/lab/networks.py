"""Which interfaces a pod gets: the cluster's default network first, then those of Multus' annotation, as Multus would attach them."""

import json
from collections.abc import Mapping
from pathlib import Path

from e2e.lab.objects import Key, Object, annotations_of, key_of, namespace_of
from e2e.lab.runtime import Attachment

NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT_INTERFACE = "eth0"


class UnknownNetwork(ValueError):
    """A pod names a NetworkAttachmentDefinition that the lab does not have."""


def load_conflist(path: Path) -> Object:
    """Raises ValueError unless it is a network configuration list with a name, a version and plugins."""
    conflist: Object = json.loads(path.read_text())
    if not conflist.get("name") or not conflist.get("cniVersion") or not conflist.get("plugins"):
        raise ValueError(f"{path}: a conflist needs name, cniVersion and plugins")
    return conflist


def definitions(objects: list[Object]) -> dict[Key, Object]:
    """The NetworkAttachmentDefinitions among the manifests, as conflists. A single plugin becomes a list of one, as in Multus."""
    found: dict[Key, Object] = {}
    for thing in objects:
        if thing["kind"] == "NetworkAttachmentDefinition":
            config: Object = json.loads(thing["spec"]["config"])
            if "plugins" not in config:
                config = {"name": config["name"], "cniVersion": config["cniVersion"], "plugins": [config]}
            found[key_of(thing)] = config
    return found


def on_node(conflist: Object, socket: Path) -> Object:
    """The same list as the node's file has it: each of our IPAM sections names this node's socket."""
    plugins = []
    for plugin in conflist["plugins"]:
        ipam = plugin.get("ipam")
        if ipam is not None and ipam.get("type") in ("nephila", "spiderpool"):
            plugin = {**plugin, "ipam": {**ipam, "ipam_unix_socket_path": str(socket)}}
        plugins.append(plugin)
    return {**conflist, "plugins": plugins}


def attachments(pod: Object, default: Object, others: Mapping[Key, Object], socket: Path) -> list[Attachment]:
    """In the order of attachment. Raises UnknownNetwork."""
    found = [Attachment(on_node(default, socket), DEFAULT_INTERFACE)]
    for index, (key, interface) in enumerate(_selected(pod), start=1):
        if key not in others:
            raise UnknownNetwork(f"no NetworkAttachmentDefinition {'/'.join(key)}")
        found.append(Attachment(on_node(others[key], socket), interface or f"net{index}"))
    return found


def _selected(pod: Object) -> list[tuple[Key, str]]:
    """Both forms of the annotation: `ns/name@if, …` and a JSON list."""
    text = annotations_of(pod).get(NETWORKS, "").strip()
    if not text:
        return []
    if text.startswith("["):
        return [
            ((item.get("namespace") or namespace_of(pod), item["name"]), item.get("interface", ""))
            for item in json.loads(text)
        ]
    selected = []
    for item in text.split(","):
        place, _, interface = item.strip().partition("@")
        namespace, slash, name = place.rpartition("/")
        selected.append(((namespace if slash else namespace_of(pod), name), interface))
    return selected
