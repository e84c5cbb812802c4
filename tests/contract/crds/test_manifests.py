"""What the lab's scenario `manifests` applies, as a Spiderpool user writes it, is taken by the API server, field by field."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from crds.generate import ROOT
from crds.spiderpool import API_VERSION, COORDINATOR, IP_POOL, MULTUS_CONFIG, RESERVED_IP, SUBNET
from tests.contract.crds.conftest import Api

FOLDER = ROOT / "e2e/lab/spiderpool"
KINDS = {kind.kind: kind for kind in (IP_POOL, SUBNET, RESERVED_IP, COORDINATOR, MULTUS_CONFIG)}
PRUNED = {"vlan"}  # existed up to v0.9; old manifests still carry it


def written() -> list[dict[str, Any]]:
    found = [one for path in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]
    return [one for one in found if one["apiVersion"] == API_VERSION]


@pytest.mark.parametrize("manifest", written(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_a_spiderpool_users_manifest_is_taken_as_it_is(api: Api, manifest: dict[str, Any]) -> None:
    kind = KINDS[manifest["kind"]]
    namespace = manifest["metadata"].get("namespace", "default") if kind.namespaced else ""
    body = {**manifest, "metadata": {**manifest["metadata"], **({"namespace": "default"} if namespace else {})}}
    path = kind.path("default" if namespace else "")
    answer = api.request("POST", path, body)
    try:
        assert answer.status == 201, answer.message
        stored, wanted = answer.body["spec"], manifest["spec"]
        assert {key: stored.get(key) for key in wanted if key not in PRUNED} == {
            key: value for key, value in wanted.items() if key not in PRUNED
        }
        assert not PRUNED & set(stored)
    finally:
        api.request("DELETE", f"{path}/{manifest['metadata']['name']}")
