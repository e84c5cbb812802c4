"""The check after start catches a server that was built wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from e2e.cluster.checks import SPEC, check_custom_resources
from e2e.cluster.client import Answer, JsonClient
from e2e.cluster.program import ClusterFailed


class Server(JsonClient):
    """Answers the check's requests; `applied` is what it says of the object."""

    def __init__(self, applied: Answer) -> None:
        super().__init__("http://127.0.0.1:1")
        self._applied = applied
        self._early = 2  # answers before a new CRD is served

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 10.0,
    ) -> Answer:
        if method == "PATCH":
            self._early -= 1
            return self._applied if self._early < 0 else Answer(404, {})
        return Answer(201, body or {}) if method == "POST" else Answer(404, {})


async def test_server_that_keeps_the_object_passes() -> None:
    await check_custom_resources(Server(Answer(201, {"spec": SPEC})))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(422, {"message": 'spec.text must be of type string: "null"'}),
        Answer(201, {"spec": {**SPEC, "map": {"b": "1"}}}),
        Answer(0, {"message": "ConnectionResetError"}),
    ],
)
async def test_server_that_does_not_keep_the_object_is_refused(answer: Answer) -> None:
    with pytest.raises(ClusterFailed, match="built wrongly"):
        await check_custom_resources(Server(answer))


async def test_check_is_bounded() -> None:
    with pytest.raises(ClusterFailed, match="more than 0 s"):
        await check_custom_resources(Server(Answer(404, {})), timeout_s=0.1)
