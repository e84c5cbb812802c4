"""The page of a real leader process over the embedded API server: on only where it has an address, gone at once when the process is told to stop."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path

import yaml

from tests.unit.observability.test_service import ROOT, call, free_port, running, until

POOLS = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools"


def test_a_leader_serves_the_page_and_stops_in_time(tmp_path: Path) -> None:
    api, page, health = free_port(), free_port(), free_port()
    settings = {
        "node": "n1",
        "api": {"url": f"http://127.0.0.1:{api}"},
        "pageAddress": f"127.0.0.1:{page}",
        "healthAddress": f"127.0.0.1:{health}",
    }
    config = tmp_path / "leader.yaml"
    config.write_text(yaml.safe_dump(settings))
    crds = ("--crds", str(ROOT / "crds/yaml"))
    with running("e2e.apiserver", "--port", str(api), *crds, log=tmp_path / "api.log"):
        until(lambda: call(api, "GET", "/version")[0] == 200, "the API server listens")
        pool = {
            "apiVersion": "spiderpool.spidernet.io/v2beta1",
            "kind": "SpiderIPPool",
            "metadata": {"name": "p"},
            "spec": {"subnet": "10.6.0.0/24", "ips": ["10.6.0.10-10.6.0.19"]},
        }
        assert call(api, "POST", POOLS, pool)[0] == 201
        with running("leader", "--config", str(config), log=tmp_path / "leader.log") as process:
            until(lambda: call(page, "GET", "/api/pools")[0] == 200, (tmp_path / "leader.log").read_text())
            (shown,) = json.loads(call(page, "GET", "/api/pools")[1])["pools"]
            assert (shown["name"], shown["total"], shown["available"]) == ("p", 10, 10)
            assert call(page, "GET", "/")[1].startswith("<!doctype html>")
            assert call(health, "GET", "/api/pools")[0] == 404  # the probes' port shows no page
            watching = http.client.HTTPConnection("127.0.0.1", page, timeout=20)
            watching.request("GET", "/api/changes")
            assert watching.getresponse().readline().startswith(b"retry:")
            began = time.monotonic()
            process.terminate()
            assert process.wait(10) == 0 and time.monotonic() - began < 8, "a watching browser delays the stop"
            watching.close()
