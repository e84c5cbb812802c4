"""The check when a reign begins."""

from __future__ import annotations

from tests.unit.leader.harness import Heard, leader
from tests.unit.leader.leftovers import endpoint
from tests.unit.nodeagent.harness import Lab, eventually


async def test_a_reign_begins_with_a_check_and_tells_what_is_wrong(lab: Lab) -> None:
    for name in ("a", "b"):
        pod = await lab.pod(name, "n1")
        await endpoint(lab, name, pod.uid)
    heard = Heard()
    async with leader(lab, heard=heard) as boss:
        assert boss.reign is not None
        check = boss.reign.consistency
        await eventually(lambda: bool(check.found))
        assert [item.invariant for item in check.found] == ["I4"]
        await eventually(lambda: bool(heard.told))
        assert any(reason == "InvariantViolated" and "I4" in note for _, reason, note in heard.told)
