"""What people read, word for word, and what scripts read, field by field."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import yaml

from cli.output import Format, Record, machine, names, styled, table
from cli.views import blocks, nodes, pools, status
from cli.words import age, count, number_text, ranges
from ipam.addresses import Family, Network
from ipam.ranges import RangeSet
from tests.unit.cli.world import WALL, Site

Golden = Callable[[str, str], None]


def test_status_fits_on_one_screen_and_names_what_is_wrong(site: Site, golden: Golden) -> None:
    site.node("node-3", heartbeat_age_s=600.0)
    site.node("node-4", heartbeat_age_s=None)
    site.pool("full", "10.7.0.0/24", "10.7.0.5")
    site.served("last", "10.7.0.5/24", "full")
    text = status.status_text(status.status_of(site.cluster()))
    golden("status", text)
    assert max(map(len, text.splitlines())) <= 120


def test_status_without_leader_says_what_does_not_happen_then() -> None:
    found = status.status_of(Site().cluster())
    assert found.leader == ""
    assert "nobody leads" in found.problems[0]


@pytest.mark.parametrize("fmt", [Format.TEXT, Format.WIDE])
def test_tables(site: Site, golden: Golden, fmt: Format) -> None:
    cluster = site.cluster()
    text = "\n".join(
        [
            table(pools.POOL_COLUMNS, pools.pool_rows(cluster), fmt),
            table(nodes.NODE_COLUMNS, nodes.node_rows(cluster), fmt),
            table(blocks.BLOCK_COLUMNS, blocks.block_rows(cluster), fmt),
            table(blocks.CONFLICT_COLUMNS, blocks.conflict_rows(cluster), fmt),
        ]
    )
    golden(f"tables-{fmt or 'text'}", text)


def test_json_and_yaml_carry_every_field_under_wire_names(site: Site) -> None:
    rows = nodes.node_rows(site.cluster())
    parsed = json.loads(machine(rows, Format.JSON))
    assert parsed == yaml.safe_load(machine(rows, Format.YAML))
    assert parsed[0]["name"] == "node-1"
    assert parsed[0]["heartbeatAgeSeconds"] == 5.0
    assert parsed[0]["openRecalls"] == 0


def test_names_can_be_given_to_kubectl(site: Site) -> None:
    rows = pools.pool_rows(site.cluster())
    assert names(pools.KIND, [row.name for row in rows]).splitlines() == [
        "spiderippool.spiderpool.spidernet.io/lab6",
        "spiderippool.spiderpool.spidernet.io/office",
    ]


def test_the_parts_of_a_pool_add_up(site: Site) -> None:
    row = next(row for row in pools.pool_rows(site.cluster()) if row.name == "office")
    assert row.total == row.used + row.free + row.pinned + row.conflicts + row.reserved
    assert (row.used, row.free, row.warm, row.cooling, row.conflicts, row.reserved) == (2, 15, 3, 1, 1, 2)


def test_an_unreadable_pool_is_shown_with_the_reason_and_hides_no_other(site: Site) -> None:
    site.pool("broken", "10.9.0.0/24", "10.9.0.9-10.9.0.1")
    rows = {row.name: row for row in pools.pool_rows(site.cluster())}
    assert rows["broken"].state.startswith("Invalid: spec.ips[0]: ")
    assert rows["office"].state == "Ready"


def test_an_exhausted_pool_says_where_its_addresses_are(site: Site) -> None:
    site.pool("tiny", "10.8.0.0/24", "10.8.0.2-10.8.0.4", meta={"creationTimestamp": "2026-01-02T00:00:00Z"})
    site.reserved("scanner", "10.8.0.3-10.8.0.4")
    site.served("only", "10.8.0.2/24", "tiny")
    row = next(row for row in pools.pool_rows(site.cluster()) if row.name == "tiny")
    assert row.state == "Exhausted: of 3 addresses, 1 in use by pods, 2 withheld by SpiderReservedIP scanner"


def test_free_addresses_as_ranges(site: Site, golden: Golden) -> None:
    cluster = site.cluster()
    office, huge = cluster.catalog.get("office"), cluster.catalog.get("lab6")
    assert office is not None
    assert huge is not None
    text = pools.free_text(pools.free_report(cluster, office)) + pools.free_text(pools.free_report(cluster, huge))
    golden("free", text)


def test_free_lists_no_more_ranges_than_asked_for(site: Site) -> None:
    cluster = site.cluster()
    office = cluster.catalog.get("office")
    assert office is not None
    report = pools.free_report(cluster, office, limit=2)
    assert report.free.ranges == ("10.6.0.11", "10.6.0.14")
    assert not report.free.complete
    assert report.free.count == 15


def test_node_states_come_from_what_was_seen_last(site: Site) -> None:
    site.node("off", heartbeat_age_s=600.0)
    site.node("bare", heartbeat_age_s=None)
    site.block("ip4-10-6-1-0", "10.6.1.0/26", leases=[site.lease("removed", "0-3")])
    rows = {row.name: row for row in nodes.node_rows(site.cluster())}
    assert {name: row.state for name, row in rows.items()} == {
        "node-1": "Ready",
        "node-2": "Ready",
        "off": "Silent",
        "bare": "NoAgent",
        "removed": "NodeGone",
    }
    assert rows["removed"].leased == 4


def test_blocks_can_be_narrowed_to_a_pool_or_a_node(site: Site) -> None:
    site.block("ip4-10-9-1-0", "10.9.1.0/26", leases=[site.lease("node-2", "0")])
    cluster = site.cluster()
    assert [row.name for row in blocks.block_rows(cluster, pool="office")] == ["ip4-10-6-0-0"]
    assert len(blocks.block_rows(cluster, node="node-2")) == 2
    assert [row.name for row in blocks.block_rows(cluster, node="node-1")] == ["ip4-10-6-0-0"]


def test_colour_changes_no_letter(site: Site) -> None:
    rows = pools.pool_rows(site.cluster())
    plain, coloured = table(pools.POOL_COLUMNS, rows), table(pools.POOL_COLUMNS, rows, colour=True)
    assert "\x1b[32m" in coloured
    assert coloured.replace("\x1b[32m", "").replace("\x1b[0m", "") == plain


def test_an_empty_table_is_its_heading() -> None:
    class Row(Record):
        name: str

    assert table(blocks.CONFLICT_COLUMNS, ()).split() == ["IP", "MAC", "POOL", "SEEN-BY", "AGO", "HOW"]
    assert styled("x", "") == "x"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3.0, "0s"), (119.9, "119s"), (120.0, "2m"), (7_200.0, "2h"), (172_800.0, "2d")]
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_numbers_of_ipv6_ranges_are_powers_of_two() -> None:
    assert [number_text(n) for n in (0, 10**12 - 1, 1 << 64, (1 << 64) + 1)] == [
        "0",
        "999999999999",
        "2^64",
        "about 2^64",
    ]
    assert count(1, "address", "addresses") == "1 address"
    whole = RangeSet.of_network(Network.parse("fd00::/64"))
    assert ranges(whole) == "fd00::-fd00::ffff:ffff:ffff:ffff"
    assert ranges(RangeSet.of(Family.V4, [(1, 1), (3, 3), (5, 5)]), 2) == "0.0.0.1, 0.0.0.3 and 1 more ranges"


def test_the_clock_of_the_picture_is_the_readers() -> None:
    assert Site().cluster().wall == WALL
