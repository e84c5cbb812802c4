"""Asked once after start, so that a wrongly built server never judges the project.

Both faults were seen with a server built by a Go version it was not written for: an empty string in a custom resource
refused as null, and a crash at the first JSON map.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from e2e.cluster.client import Answer, JsonClient
from e2e.cluster.program import ClusterFailed

GROUP = "check.nephila.io"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# By server-side apply: the server holds a POST back for 2 s when the CRD is new (for the sake of several servers).
APPLY = f"/apis/{GROUP}/v1/probes/probe?fieldManager=nephila-check"
SPEC = {"text": "", "map": {"a": "", "b": "1"}, "list": [""]}


async def check_custom_resources(client: JsonClient, *, timeout_s: float = 20.0) -> None:
    """Creates a CRD and one object of it, compares what comes back, removes both. Raises `ClusterFailed`."""
    try:
        async with asyncio.timeout(timeout_s):
            created = await client.post(CRDS, _definition())
            if created.status != 201:
                raise ClusterFailed(f"the API server refused the check's CRD: {created.status} {created.message}")
            await _compare(client)
            await client.request("DELETE", f"{CRDS}/probes.{GROUP}")
            await _until_removed(client)
    except TimeoutError as error:
        raise ClusterFailed(f"the check of custom resources took more than {timeout_s:.0f} s") from error


async def _compare(client: JsonClient) -> None:
    probe = {"apiVersion": f"{GROUP}/v1", "kind": "Probe", "metadata": {"name": "probe"}, "spec": SPEC}
    answer = await _create_when_served(client, probe)
    if answer.status != 201 or answer.body.get("spec") != SPEC:
        raise ClusterFailed(
            f"the API server does not keep empty strings or maps of a custom resource: {answer.status} "
            f"{answer.message} {answer.body.get('spec')}; it was built wrongly"
        )


async def _create_when_served(client: JsonClient, probe: Mapping[str, object]) -> Answer:
    """Objects are served a moment after the CRD was created; the caller bounds the time."""
    while True:
        answer = await client.request("PATCH", APPLY, probe, content_type="application/apply-patch+yaml")
        if answer.status != 404:
            return answer
        await asyncio.sleep(0.02)


async def _until_removed(client: JsonClient) -> None:
    while True:
        if (await client.get(f"{CRDS}/probes.{GROUP}")).status == 404:
            return
        await asyncio.sleep(0.05)


def _definition() -> dict[str, object]:
    text = {"type": "string"}
    properties = {
        "text": text,
        "map": {"type": "object", "additionalProperties": text},
        "list": {"type": "array", "items": text},
    }
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "probes", "singular": "probe", "kind": "Probe"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"probes.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Cluster", "names": names, "versions": [version]},
    }
