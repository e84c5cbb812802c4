"""Pods that will not run get no address."""

from typing import Any

import pytest

from ipam.selection import pod_refusal
from tests.unit.ipam.choosing import (
    pod,
)


@pytest.mark.parametrize(
    ("facts", "gist"),
    [
        ({"deleting": True}, "is being deleted"),
        ({"phase": "Succeeded", "restart_policy": "Never"}, "has succeeded"),
        ({"phase": "Succeeded", "restart_policy": "OnFailure"}, "has succeeded"),
        ({"phase": "Failed", "restart_policy": "Never"}, "has failed"),
        ({"phase": "Failed", "restart_policy": "Always", "status_reason": "Evicted"}, "was evicted"),
    ],
)
def test_a_dead_pod_gets_no_address(facts: dict[str, Any], gist: str) -> None:
    refusal = pod_refusal(pod(**facts))
    assert refusal is not None
    assert gist in refusal.message
    assert refusal.code == 120


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"phase": "Running"},
        {"phase": "Succeeded", "restart_policy": "Always"},
        {"phase": "Failed", "restart_policy": "OnFailure"},
        {"phase": "Failed", "restart_policy": "Always", "status_reason": "NodeLost"},
    ],
)
def test_a_pod_that_can_run_is_served(facts: dict[str, Any]) -> None:
    assert pod_refusal(pod(**facts)) is None
