"""An API server with the generated CRDs applied: the embedded one, or the real one of NEPHILA_CONTRACT_KUBECONFIG.

.venv/bin/python -m e2e.cluster run -- .venv/bin/python -m pytest tests/contract/crds
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from crds.generate import ROOT, YAML_FOLDER

KUBECONFIG = "NEPHILA_CONTRACT_KUBECONFIG"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WAIT_S = 20.0
REQUEST_S = 10.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    status: int
    body: Json

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


class Api:
    """A blocking JSON client over one connection: raw objects go out, whatever the server says comes back."""

    def __init__(self, url: str, *, ca: str = "", token: str = "") -> None:
        where = urlsplit(url)
        assert where.hostname is not None
        if where.scheme == "https":
            tls = ssl.create_default_context(cadata=ca or None)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                where.hostname, where.port, context=tls, timeout=REQUEST_S
            )
        else:
            self._connection = http.client.HTTPConnection(where.hostname, where.port, timeout=REQUEST_S)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def request(self, method: str, path: str, body: Json | None = None) -> Answer:
        headers = self._headers | ({"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {})
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        return Answer(response.status, json.loads(response.read()))

    def close(self) -> None:
        self._connection.close()

    @classmethod
    def of_kubeconfig(cls, path: Path) -> Api:
        """For the only cluster of a kubeconfig with a token, as e2e.cluster writes it."""
        config = json.loads(path.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        return cls(cluster["server"], ca=ca, token=user["token"])


def apply_crds(api: Api) -> None:
    """Create or replace every generated CRD, and wait until it is served."""
    manifests = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / YAML_FOLDER).glob("*.yaml"))]
    for manifest in manifests:
        answer = api.request("POST", CRDS, manifest)
        if answer.status == 409:
            name = manifest["metadata"]["name"]
            stored = api.request("GET", f"{CRDS}/{name}").body["metadata"]
            manifest["metadata"]["resourceVersion"] = stored["resourceVersion"]
            answer = api.request("PUT", f"{CRDS}/{name}", manifest)
        assert answer.status in (200, 201), f"{manifest['metadata']['name']}: {answer.message}"
    deadline = time.monotonic() + WAIT_S
    for manifest in manifests:
        while not _is_established(api, manifest["metadata"]["name"]):
            assert time.monotonic() < deadline, f"{manifest['metadata']['name']} is not established"
            time.sleep(0.05)


def _is_established(api: Api, name: str) -> bool:
    conditions = api.request("GET", f"{CRDS}/{name}").body.get("status", {}).get("conditions", [])
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)


@pytest.fixture(scope="session")
def api() -> Iterator[Api]:
    """A client of a server that knows the CRDs."""
    with ExitStack() as ends:
        real = os.environ.get(KUBECONFIG)
        client = Api.of_kubeconfig(Path(real)) if real else Api(ends.enter_context(_embedded()))
        ends.callback(client.close)
        apply_crds(client)
        yield client


@contextmanager
def _embedded() -> Iterator[str]:
    """The URL of an embedded server in a process of its own."""
    command = [sys.executable, "-m", "e2e.apiserver"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, "the embedded API server did not start"
            yield url
        finally:
            process.terminate()
