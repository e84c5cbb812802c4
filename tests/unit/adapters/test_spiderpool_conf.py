"""Spiderpool's own configuration is taken as it is; the page about it says what the programs really do with each key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.spiderpool_conf import AGENT, KEYS, Key, Verdict, checked
from e2e.reference.spiderpool import spiderpool_page
from ipam.errors import BadValue
from leader.config import LeaderConfig
from leader.config import load_config as load_leader
from nodeagent.config import AgentConfig
from nodeagent.config import load_config as load_agent

HONOURED = [key for key in KEYS if key.verdict is Verdict.HONOURED]
OTHER: dict[type, Callable[[Any], object]] = {
    bool: lambda now: not now,
    int: lambda now: now + 3,
    str: lambda _now: "kube-system/underlay",
}

# As Spiderpool's chart writes it, with its defaults.
CHART = """
ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock
enableIPv4: true
enableIPv6: true
tuneSysctlConfig: true
enableStatefulSet: true
enableKubevirtStaticIP: true
enableSpiderSubnet: true
enableAutoPoolForApplication: true
enableIPConflictDetection: false
enableGatewayDetection: false
enableCleanOutdatedEndpoint: false
enableValidatingResourcesDeletedWebhook: false
clusterSubnetDefaultFlexibleIPNumber: 1
podResourceInject:
  enabled: false
  namespacesExclude: [kube-system, spiderpool]
  namespacesInclude: []
agent:
  networkResourcePlugin: {enabled: false}
iaasNetworkProvider: {serverUrl: "", httpRequestTimeout: 50s}
"""


def load(tmp_path: Path, program: str, conf: str, own: dict[str, Any] | None = None, network: str = "") -> Any:
    folder = tmp_path / "conf"
    folder.mkdir(exist_ok=True)
    (folder / "conf.yml").write_text(conf)
    if network:
        (folder / "clusterNetwork").write_text(network + "\n")
    settings = tmp_path / f"{program}.yaml"
    settings.write_text(yaml.safe_dump({"node": "n1", "spiderpoolConf": str(folder), **(own or {})}))
    return load_agent(settings, {}) if program == AGENT else load_leader(settings)


def value_at(config: AgentConfig | LeaderConfig, path: str) -> Any:
    section, _, name = path.partition(".")
    part = getattr(config, section)
    (attribute,) = (
        key for key, wire in zip(part.__struct_fields__, part.__struct_encode_fields__, strict=True) if wire == name
    )
    return getattr(part, attribute)


@pytest.mark.parametrize("key", HONOURED, ids=[key.name for key in HONOURED])
def test_an_honoured_key_sets_what_the_page_says(tmp_path: Path, key: Key) -> None:
    assert key.targets
    for program, path in key.targets:
        before = value_at(load(tmp_path, program, ""), path)
        wanted = OTHER[key.type](before)
        after = load(tmp_path, program, yaml.safe_dump({key.name: wanted}))
        assert value_at(after, path) == wanted != before
        section, _, name = path.partition(".")
        assert (
            value_at(load(tmp_path, program, yaml.safe_dump({key.name: wanted}), {section: {name: before}}), path)
            == before
        )


def test_the_whole_file_of_spiderpools_chart_is_taken(tmp_path: Path) -> None:
    agent = load(tmp_path, "agent", CHART, network="kube-system/underlay")
    assert agent.features.cluster_network == "kube-system/underlay"
    assert agent.features.enable_validating_resources_deleted_webhook is False
    assert load(tmp_path, "leader", CHART).applications.default_flexible_ip_number == 1
    assert {*yaml.safe_load(CHART)} <= {key.name for key in KEYS}


def test_the_number_that_spiderpools_code_reads_wins(tmp_path: Path) -> None:
    text = "clusterSubnetAutoPoolDefaultRedundantIPNumber: 4\nclusterSubnetDefaultFlexibleIPNumber: 2\n"
    assert load(tmp_path, "leader", text).applications.default_flexible_ip_number == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("enableIPv4: 'yes'\n", "conf.yml: enableIPv4: 'yes' is not true or false"),
        ("clusterSubnetDefaultFlexibleIPNumber: true\n", "True is not a whole number"),
        ("- enableIPv4\n", "is not a list of keys and values"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_a_bad_value_is_refused_with_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    for program in ("agent", "leader"):
        with pytest.raises(BadValue, match=r"conf\.yml") as caught:
            load(tmp_path, program, text)
        assert says in str(caught.value)


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("node: n1\nspiderpoolConf: /nowhere/conf.yml\n")
    with pytest.raises(BadValue, match=r"/nowhere/conf\.yml: cannot be read"):
        load_agent(tmp_path / "agent.yaml", {})


def test_an_unknown_key_is_told_and_ignored() -> None:
    assert checked({"enableTeleport": True}, "", "f") == {"enableTeleport": True}


def test_every_key_has_its_row_and_its_reason() -> None:
    page = spiderpool_page()
    for key in KEYS:
        assert f"| `{key.name}` | {key.verdict.value}" in page
        assert key.targets or key.why
