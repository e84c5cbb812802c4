"""The real processes with the webhook on: the leader child makes the certificate, the agent serves, the API server refuses in its name."""

from __future__ import annotations

import base64
import contextlib
import json
from copy import deepcopy
from pathlib import Path

import yaml

from crds.webhooks import configurations
from tests.unit.observability.test_service import ROOT, call, free_port, running, until

POOLS = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools"
HOOKS = "/apis/admissionregistration.k8s.io/v1"
SECRETS = "/api/v1/namespaces/nephila-system/secrets"


def pool(name: str, ips: str) -> dict[str, object]:
    return {"metadata": {"name": name}, "spec": {"subnet": "10.6.0.0/24", "ips": [ips]}}


def test_an_agent_and_its_leader_serve_the_webhook(tmp_path: Path) -> None:
    api, webhook, health, certificates = free_port(), free_port(), free_port(), tmp_path / "certificates"
    certificates.mkdir()
    reached = {"url": f"http://127.0.0.1:{api}"}
    leader = {"api": reached, "webhook": {"enabled": True, "names": ["localhost"], "periodS": 0.2}}
    agent = {
        "node": "n1",
        "socket": str(tmp_path / "nephila.sock"),
        "stateDir": str(tmp_path / "state"),
        "healthAddress": f"127.0.0.1:{health}",
        "api": reached,
        "leader": {"enabled": True, "config": str(tmp_path / "leader.yaml")},
        "webhook": {"address": f"127.0.0.1:{webhook}", "certificates": str(certificates)},
    }
    (tmp_path / "leader.yaml").write_text(yaml.safe_dump(leader))
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(agent))
    with contextlib.ExitStack() as stack:
        crds = ["--crds", str(ROOT / "crds/yaml")]
        stack.enter_context(running("e2e.apiserver", "--port", str(api), *crds, log=tmp_path / "api.log"))
        until(lambda: call(api, "GET", "/version")[0] == 200, "the API server")
        # The chart's part: a Namespace, an empty Secret, two configurations.
        for path, body in (
            ("/api/v1/nodes", {"metadata": {"name": "n1"}}),
            ("/api/v1/namespaces", {"metadata": {"name": "nephila-system"}}),
            (SECRETS, {"metadata": {"name": "nephila-webhook"}}),
        ):
            assert call(api, "POST", path, body)[0] == 201, path
        for document in deepcopy(configurations()).values():
            (hook,) = document["webhooks"]
            hook["clientConfig"] = {"url": f"https://localhost:{webhook}{hook['clientConfig']['service']['path']}"}
            hook["failurePolicy"] = "Fail"
            plural = f"{document['kind'].lower()}s"
            assert call(api, "POST", f"{HOOKS}/{plural}", document)[0] == 201, plural
        stack.enter_context(running("nodeagent", "--config", str(tmp_path / "agent.yaml"), log=tmp_path / "agent.log"))

        def kept() -> dict[str, str]:
            data: dict[str, str] = json.loads(call(api, "GET", f"{SECRETS}/nephila-webhook")[1]).get("data") or {}
            return data

        until(lambda: "tls.key" in kept(), "the leader makes the certificate")
        status, _ = call(api, "POST", POOLS, pool("early", "10.6.0.1"), timeout_s=15.0)
        assert status == 500, "nobody serves yet, and the policy is Fail"
        for key in ("tls.crt", "tls.key"):  # the kubelet's part
            (certificates / key).write_bytes(base64.b64decode(kept()[key]))
        until(lambda: call(api, "POST", POOLS, pool("a", "10.6.0.1-10.6.0.9"))[0] == 201, "the agent serves")
        status, text = call(api, "POST", POOLS, pool("b", "10.6.0.9-10.6.0.12"))
        assert status == 422 and "10.6.0.9 belongs to SpiderIPPool a too" in text, text
        metrics = call(health, "GET", "/metrics")[1]
        assert 'nephila_webhook_reviews_total{answer="refused",asked="validate"} 1.0' in metrics, metrics
        assert {"tls.crt", "tls.key", "ca.crt"} == set(kept()), "no key of an authority is stored"
    events = [json.loads(line)["event"] for line in (tmp_path / "agent.log").read_text().splitlines()]
    assert {"webhook_certificate_changed", "webhook_authorities_published", "webhook_served"} <= set(events)
