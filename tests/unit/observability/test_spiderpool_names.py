"""Dashboards made for Spiderpool query its documented names; each of them must be there, with its documented type."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.unit.observability.exposed import agent_text, leader_text

_FOR_BOTH = (
    "counts",
    "failure_counts",
    "update_ippool_conflict_counts",
    "err_internal_counts",
    "err_retries_exhausted_counts",
)
_DURATIONS = tuple(
    f"{word}{limit}_duration_seconds" for limit in ("", "_limit") for word in ("average", "max", "min", "latest")
)
# Names as in Spiderpool's docs/reference/metrics.md; counters with the suffix that OpenTelemetry's exporter adds.
AGENT_COUNTERS = {
    *(f"spiderpool_ipam_{verb}_{name}" for verb in ("allocation", "release") for name in _FOR_BOTH),
    "spiderpool_ipam_allocation_err_no_available_pool_counts",
    "spiderpool_ipam_allocation_err_ip_used_out_counts",
}
AGENT_GAUGES = {f"spiderpool_ipam_{verb}_{name}" for verb in ("allocation", "release") for name in _DURATIONS}
AGENT_HISTOGRAMS = {
    f"spiderpool_ipam_{verb}{limit}_duration_seconds" for verb in ("allocation", "release") for limit in ("", "_limit")
}
CONTROLLER_COUNTERS = {"spiderpool_ip_gc_counts", "spiderpool_ip_gc_failure_counts"}
CONTROLLER_GAUGES = {"spiderpool_total_ippool_counts", "spiderpool_total_subnet_counts"}
DEBUG_GAUGES = {
    "spiderpool_debug_ippool_total_ip_counts",
    "spiderpool_debug_ippool_available_ip_counts",
    "spiderpool_debug_subnet_ippool_counts",
    "spiderpool_debug_subnet_total_ip_counts",
    "spiderpool_debug_subnet_available_ip_counts",
}


def by_type(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"counter": set(), "gauge": set(), "histogram": set()}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("spiderpool_"):
            found[family.type].add(family.name)
    return found


async def test_the_agents_names_are_the_documented_ones(tmp_path: Path) -> None:
    found = by_type(await agent_text(tmp_path))
    assert found["counter"] - {"spiderpool_ip_gc_counts"} == AGENT_COUNTERS
    assert (found["gauge"], found["histogram"]) == (AGENT_GAUGES, AGENT_HISTOGRAMS)


async def test_the_controllers_names_are_the_documented_ones() -> None:
    found = by_type(await leader_text())
    assert (found["counter"], found["gauge"]) == (CONTROLLER_COUNTERS, CONTROLLER_GAUGES)
    assert by_type(await leader_text(debug=True))["gauge"] == CONTROLLER_GAUGES | DEBUG_GAUGES


async def test_counters_carry_the_suffix_that_dashboards_query(tmp_path: Path) -> None:
    text = await agent_text(tmp_path)
    assert "\nspiderpool_ipam_allocation_counts_total 4.0\n" in text
    assert "\nspiderpool_ipam_allocation_err_ip_used_out_counts_total 1.0\n" in text


async def test_the_buckets_are_spiderpools(tmp_path: Path) -> None:
    text = await agent_text(tmp_path)
    bounds = [
        line.split('le="')[1].split('"')[0]
        for line in text.splitlines()
        if line.startswith("spiderpool_ipam_allocation_duration_seconds_bucket")
    ]
    assert bounds == ["0.1", "0.3", "0.5", "1.0", "3.0", "5.0", "7.0", "10.0", "15.0", "+Inf"]
