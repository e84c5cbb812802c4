"""What `/metrics` shows: the declared families and no others, in Prometheus' own judgement well-formed, and true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.families import counter, gauge
from ipam.errors import BadAnnotation, DeadlineExceeded, Internal, NoPoolMatches
from leader.metrics_spiderpool import DEBUG_FAMILIES
from nodeagent.happenings import error_class
from nodeagent.metrics import AGENT_FAMILIES, VERDICT_AGE
from nodeagent.metrics_spiderpool import AUTO_WAITS
from tests.unit.nodeagent.harness import Lab, add, delete, eventually, failed, http
from tests.unit.observability.exposed import AgentScrape, agent_text, declared_series, leader_text


def names(text: str) -> set[str]:
    """The names of all samples and of families that have none."""
    return {family.name for family in text_string_to_metric_families(text)}


def promtool_check(text: str) -> str:
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""


async def test_promtool_finds_nothing_wrong_with_an_agent(tmp_path: Path) -> None:
    assert promtool_check(await agent_text(tmp_path)) == ""


async def test_promtool_finds_nothing_wrong_with_a_leader() -> None:
    assert promtool_check(await leader_text()) == ""


async def test_promtool_would_find_something() -> None:
    assert "camelCase" in promtool_check(await leader_text(debug=True))


async def test_every_sample_is_declared_with_its_labels(tmp_path: Path) -> None:
    declared = declared_series()
    for text in (await agent_text(tmp_path), await leader_text()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                assert sample.name in declared, sample.name
                assert set(sample.labels) == declared[sample.name], sample.name


async def test_everything_declared_is_shown_by_a_program_that_has_seen_something(tmp_path: Path) -> None:
    shown: set[str] = set()
    for text in (await agent_text(tmp_path), await leader_text()):
        shown |= {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    absent = set(declared_series()) - shown
    # Nothing was probed in these worlds, so no verdict has an age or a kind.
    assert absent <= {VERDICT_AGE.name, "nephila_probe_verdicts_total"}, absent


async def test_nothing_of_a_pod_is_ever_a_label(tmp_path: Path) -> None:
    for text in (await agent_text(tmp_path), await leader_text()):
        assert not re.search(r"10\.6\.0\.\d|p[0-3]\"|c[0-3]\"", text)
        assert not set(re.findall(r"(\w+)=\"", text)) & {"pod", "namespace", "ip", "address", "container", "mac", "uid"}


async def test_debug_names_come_only_when_asked_for(tmp_path: Path) -> None:
    wanted = {family.name.removesuffix("_total") for family in (AUTO_WAITS, *DEBUG_FAMILIES[:3])}
    plain = names(await agent_text(tmp_path)) | names(await leader_text())
    debug = names(await agent_text(tmp_path, debug=True)) | names(await leader_text(debug=True))
    assert not wanted & plain and wanted <= debug


@pytest.mark.case("K00001")
async def test_the_values_are_those_of_the_state_that_decides(tmp_path: Path) -> None:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.12", default=True)
    async with lab.agent("n1") as agent:
        scrape = AgentScrape(agent, tmp_path)
        pods = [await lab.pod(f"p{number}", "n1") for number in range(4)]
        for number, pod in enumerate(pods[:3]):
            await add(agent, f"c{number}", pod)
        assert scrape.value("nephila_node_slots", pool="v4", state="allocated") == 3
        assert scrape.value("nephila_attachments") == 3
        await failed(agent, http("ADD", "c3", pods[3]))
        assert scrape.value("nephila_allocation_seconds_count", outcome="failed") == 1
        assert scrape.value("nephila_waits_total", pool="v4") is not None
        assert scrape.value("spiderpool_ipam_allocation_counts_total") == 4
        assert scrape.value("spiderpool_ipam_allocation_failure_counts_total") == 1
        assert scrape.value("spiderpool_ipam_allocation_duration_seconds_count") == 4
        await delete(agent, "c0")
        assert scrape.value("nephila_node_slots", pool="v4", state="cooling") == 1
        assert scrape.value("nephila_release_seconds_count") == 1
        assert scrape.value("spiderpool_ipam_release_counts_total") == 1
        assert scrape.value("nephila_ready") == 1
        agent.mailbox.fence = type(agent.mailbox.fence)(60.0, mark="x")  # type: ignore[union-attr]
        assert (scrape.value("nephila_ready"), scrape.value("nephila_fenced")) == (0, 1)


async def test_a_scrape_costs_no_walk_over_attachments_or_slots(tmp_path: Path) -> None:
    """Its samples do not grow with what is allocated; the time is for `python -m e2e.bench.scrape` to measure."""
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/22", "10.6.0.1-10.6.3.250", default=True)
    async with lab.agent("n1") as agent:
        scrape = AgentScrape(agent, tmp_path)
        await add(agent, "c0", await lab.pod("p0", "n1"))
        few = len(scrape.text().splitlines())
        pods = [await lab.pod(f"p{number}", "n1") for number in range(1, 60)]
        await eventually(lambda: agent.refill.targets.get("v4", 0) >= 1)
        for number, pod in enumerate(pods):
            await add(agent, f"d{number}", pod)
        assert len(scrape.text().splitlines()) <= few + 10


def test_errors_are_told_by_the_branch_of_their_tree() -> None:
    found = [
        error_class(e) for e in (BadAnnotation("a", "b"), NoPoolMatches("x"), DeadlineExceeded("x"), Internal("x"))
    ]
    assert found == ["BadRequest", "NoPool", "TryLater", "Internal"]


def test_a_family_that_breaks_the_naming_rules_is_refused() -> None:
    with pytest.raises(ValueError, match="_total"):
        counter("nephila_things", "Things.")
    with pytest.raises(ValueError, match="_total"):
        gauge("nephila_things_total", "Things.")


def test_our_own_names_share_one_prefix_and_none_is_declared_twice() -> None:
    found = [family.name for family in AGENT_FAMILIES]
    assert len(found) == len(set(found)) and all(name.startswith("nephila_") for name in found)
