"""The real processes: an agent with its leader child over the embedded API server, asked by HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def call(port: int, method: str, path: str, body: Any = None, *, timeout_s: float = 5.0) -> tuple[int, str]:
    """(status, text); status 0 if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextlib.contextmanager
def running(module: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Site:
    """Ports of the three programs and the agent's process."""

    def __init__(self) -> None:
        self.api, self.agent, self.leader = free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site()
    api = {"url": f"http://127.0.0.1:{site.api}"}
    agent, leader = tmp_path / "agent.yaml", tmp_path / "leader.yaml"
    leader.write_text(yaml.safe_dump({"api": api, "healthAddress": f"127.0.0.1:{site.leader}"}))
    settings = {
        "node": "n1",
        "socket": str(tmp_path / "nephila.sock"),
        "stateDir": str(tmp_path / "state"),
        "healthAddress": f"127.0.0.1:{site.agent}",
        "api": api,
        "leader": {"enabled": True, "config": str(leader)},
    }
    agent.write_text(yaml.safe_dump(settings))
    with contextlib.ExitStack() as stack:
        crds = ["--crds", str(ROOT / "crds/yaml")]
        stack.enter_context(running("e2e.apiserver", "--port", str(site.api), *crds, log=tmp_path / "api.log"))
        until(lambda: call(site.api, "GET", "/version")[0] == 200, "the API server")
        site.process = stack.enter_context(running("nodeagent", "--config", str(agent), log=tmp_path / "agent.log"))
        yield site


def test_probes_and_metrics_of_the_real_programs(site: Site, tmp_path: Path) -> None:
    until(lambda: call(site.agent, "GET", "/v1/runtime/liveness") == (200, "ok"), "the agent lives before it is ready")
    assert call(site.agent, "GET", "/v1/runtime/readiness") == (503, "the agent is starting")
    assert call(site.api, "POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})[0] == 201
    pool = {"metadata": {"name": "v4"}, "spec": {"subnet": "10.6.0.0/24", "ips": ["10.6.0.10-10.6.0.20"]}}
    assert call(site.api, "POST", "/apis/spiderpool.spidernet.io/v2beta1/spiderippools", pool)[0] == 201
    until(lambda: call(site.agent, "GET", "/v1/runtime/readiness")[0] == 200, "the agent is ready")
    until(lambda: "nephila_pool_free{" in call(site.leader, "GET", "/metrics")[1], "the leader judges the pool")
    for port in (site.agent, site.leader):
        status, text = call(port, "GET", "/metrics")
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (status, checked.returncode) == (200, 0), checked.stderr
        assert "nephila_build_info{" in text and "nephila_api_requests_total{" in text
    assert "nephila_ready 1.0" in call(site.agent, "GET", "/metrics")[1]
    assert "nephila_leader 1.0" in call(site.leader, "GET", "/metrics")[1]
    logged = [json.loads(line) for line in (tmp_path / "agent.log").read_text().splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in logged)


def test_a_program_that_stands_still_does_not_answer_its_probe(site: Site) -> None:
    """Which is why liveness is served by the loop that does the work: the kubelet's timeout is the signal."""
    until(lambda: call(site.agent, "GET", "/v1/runtime/liveness")[0] == 200, "the agent lives")
    assert site.process is not None
    site.process.send_signal(signal.SIGSTOP)
    assert call(site.agent, "GET", "/v1/runtime/liveness", timeout_s=0.5)[0] == 0
    site.process.send_signal(signal.SIGCONT)
    until(lambda: call(site.agent, "GET", "/v1/runtime/liveness")[0] == 200, "the agent lives again")
