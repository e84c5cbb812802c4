"""Small pure parts of the lab: percentiles, fates, networks, plugin configurations, judgement of errors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.lab import networks, outcomes
from e2e.lab.agents import Access, agent_config, leader_config, merged
from e2e.lab.checks import LivePod, kept, unique
from e2e.lab.ledger import Call, Fate, Ledger, timing
from e2e.lab.objects import Object
from e2e.lab.report import Requests, Setting, Step, Tally, count_requests, summarize
from e2e.lab.runtime import Sandbox, parse_error, plugin_config, shim_times
from e2e.lab.scenarios.bad_input import judge
from e2e.lab.scenarios.tight import pools


def call(fate: Fate, begun: float = 0.0, ended: float = 0.01) -> Call:
    return Call(
        "ADD",
        "ns",
        "pod",
        "node-1",
        "c1",
        "eth0",
        begun,
        ended,
        fate,
        ("10.0.0.1/16",),
        "" if fate is Fate.OK else "why",
    )


def pod(name: str, *addresses: str) -> LivePod:
    return LivePod(("ns", name), f"uid-{name}", "node-1", f"netns-{name}", {"eth0": addresses})


def test_percentiles_are_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert timing(values) == timing(reversed(values))
    result = timing(values)
    assert (result.count, result.p50_ms, result.p99_ms, result.max_ms) == (100, 50.0, 99.0, 100.0)
    assert timing([]).count == 0
    assert timing([7.0]).p99_ms == 7.0


def test_a_retry_during_an_outage_is_no_error_but_any_other_failure_is() -> None:
    ledger = Ledger([call(Fate.OK), call(Fate.AGENT_DOWN)])
    assert ledger.errors() == []
    ledger.record(call(Fate.FAILED))
    assert ledger.errors() == ["ADD ns/pod on node-1: why"]


def test_a_doubled_address_is_found_whatever_its_prefix_and_interface() -> None:
    assert unique([pod("a", "10.0.0.1/16"), pod("b", "10.0.0.2/16")]) == []
    (problem,) = unique([pod("a", "10.0.0.1/16"), pod("b", "10.0.0.1/24", "fd00::1/64")])
    assert problem.startswith("10.0.0.1 is held by ns/a") and "ns/b" in problem


def test_a_survivor_that_changed_its_address_is_found_and_a_new_pod_is_not_blamed() -> None:
    assert (
        kept(
            [pod("a", "10.0.0.1/16"), pod("gone", "10.0.0.9/16")], [pod("a", "10.0.0.1/16"), pod("new", "10.0.0.9/16")]
        )
        == []
    )
    assert len(kept([pod("a", "10.0.0.1/16")], [pod("a", "10.0.0.2/16")])) == 1


def test_a_summary_passes_only_with_steps_and_without_problems_errors_or_leftovers() -> None:
    ledger, good = Ledger([call(Fate.OK)]), Tally([Step("s", 1.0)])

    def passed(tally: Tally, book: Ledger, left: tuple[str, ...]) -> bool:
        return summarize(Setting("x", "embedded", 3), tally, book, {("ADD", "c1", "eth0"): 0.5}, {}, left, 1.0).passed

    assert passed(good, ledger, ())
    assert not passed(Tally([]), ledger, ())
    assert not passed(Tally([Step("s", 1.0, ("bad",))]), ledger, ())
    assert not passed(good, Ledger([call(Fate.FAILED)]), ())
    assert not passed(good, ledger, ("nl1-node-1",))


def test_adds_are_told_apart_by_what_the_agents_say_and_by_the_kernels_part(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text(
        '{"event": "lease_claimed"}\nnot json, of another program\n'
        '{"event": "address_given", "container": "c1", "ifname": "eth0", "how": "warm", "ms": 0.1}\n'
        '{"event": "address_given", "container": "c2", "ifname": "eth0", "how": "waited", "ms": 400.0}\n'
        '{"event": "address_given", "container": "c2", "ifname": "eth0", "how": "repeat", "ms": 0.2}\n'
    )
    served = outcomes.served([log, tmp_path / "missing"])
    book = Ledger(
        [
            replace(call(Fate.OK), container_id="c1", ended=0.010, begun=0.0, addresses=("10.0.0.1/24",)),
            replace(call(Fate.OK), container_id="c2", ended=2.0, begun=0.0, addresses=("10.0.0.2/24", "fd00::2/64")),
        ]
    )
    shim = {("ADD", "c1", "eth0"): 1.0, ("ADD", "c2", "eth0"): 401.0}
    summary = summarize(Setting("x", "embedded", 3), Tally([Step("s", 1.0)]), book, shim, served, (), 1.0)
    assert (summary.warm.count, summary.warm.p50_ms, summary.warm_inside.p50_ms) == (1, 1.0, 0.1)
    assert (summary.cold.count, summary.cold.p50_ms) == (1, 401.0)
    assert (summary.plain.p50_ms, summary.dad.p50_ms) == (9.0, 1599.0)


def test_the_labs_own_requests_are_not_counted_as_the_products() -> None:
    rows: list[Object] = [
        {"verb": "get", "resource": "pods", "subresource": "", "userAgent": "nephila-lab/kubelet", "count": 50},
        {"verb": "patch", "resource": "ipnodes", "subresource": "status", "userAgent": "nephila-agent/1", "count": 4},
    ]
    counted = count_requests(rows, 8)
    assert counted is not None
    assert (counted.total, counted.per_add, counted.by_kind) == (4, 0.5, {"patch ipnodes/status": 4})
    assert count_requests([], 8) is None


def test_the_leaders_requests_stand_apart_and_lease_writes_are_told_from_reads() -> None:
    def row(agent: str, verb: str, count: int) -> Object:
        resource = "ipblocks.nephila.io"
        return {"verb": verb, "resource": resource, "subresource": "", "userAgent": agent, "count": count}

    rows = [row("nephila-agent/1", "get", 9), row("nephila-agent/1", "patch", 3), row("nephila-agent/1", "create", 1)]
    counted = count_requests([*rows, row("nephila-leader/1", "patch", 7)], 10)
    assert counted is not None
    assert (counted.total, counted.leader, counted.lease_writes) == (13, 7, 4)
    before = Requests(5, 0.0, {"get ipblocks.nephila.io": 4, "patch ipblocks.nephila.io": 1})
    assert (counted.since(before).total, counted.since(before).lease_writes) == (8, 3)


def test_a_scenarios_settings_go_over_the_labs_own_and_the_leader_knows_the_agents_lease_time(tmp_path: Path) -> None:
    access = Access({"url": "http://a"}, {"url": "http://l"})
    agent = merged(agent_config("node-1", tmp_path, access, tmp_path / "l"), {"lease": {"leaseS": 9.0}, "parent": ""})
    assert agent["lease"] == {"leaseS": 9.0} and agent["parent"] == "" and agent["api"] == {"url": "http://a"}
    leader = merged(leader_config("node-1", access, agent), {"reclaim": {"graceS": 1.0}})
    assert leader["reclaim"] == {"agentLeaseS": 9.0, "graceS": 1.0, "periodS": 0.5}
    assert leader["api"] == {"url": "http://l"}
    assert leader_config("node-1", access, {})["reclaim"] == {"agentLeaseS": 300.0, "graceS": 2.0, "periodS": 0.5}


def test_the_tight_pools_have_exactly_as_many_addresses_as_asked_in_both_families() -> None:
    v4, v6 = pools("p", "10.6.50.1", "fd00:6::50:1", 500)
    assert v4["spec"]["ips"] == ["10.6.50.1-10.6.51.244"] and v6["spec"]["ips"] == ["fd00:6::50:1-fd00:6::50:1f4"]


def test_each_node_is_told_its_own_socket_under_both_names_of_the_plugin() -> None:
    conflist: Object = {
        "name": "n",
        "cniVersion": "1.0.0",
        "plugins": [
            {"type": "macvlan", "ipam": {"type": "spiderpool"}},
            {"type": "macvlan", "ipam": {"type": "host-local"}},
            {"type": "tuning"},
        ],
    }
    told = networks.on_node(conflist, Path("/run/x.sock"))
    assert told["plugins"][0]["ipam"] == {"type": "spiderpool", "ipam_unix_socket_path": "/run/x.sock"}
    assert told["plugins"][1]["ipam"] == {"type": "host-local"} and told["plugins"][2] == {"type": "tuning"}
    assert "ipam_unix_socket_path" not in conflist["plugins"][0]["ipam"]


@pytest.mark.parametrize(
    "text", ["storage, net-b@lan9", '[{"name": "storage"}, {"name": "net-b", "namespace": "ns", "interface": "lan9"}]']
)
def test_multus_annotation_in_both_forms_adds_interfaces_in_order(text: str) -> None:
    thing: Object = {"metadata": {"name": "p", "namespace": "ns", "annotations": {networks.NETWORKS: text}}}
    default: Object = {"name": "d", "cniVersion": "1.0.0", "plugins": []}
    others: dict[tuple[str, str], Object] = {
        ("ns", name): {"name": name, "cniVersion": "1.0.0", "plugins": []} for name in ("storage", "net-b")
    }
    found = networks.attachments(thing, default, others, Path("/s"))
    assert [(item.conflist["name"], item.interface) for item in found] == [
        ("d", "eth0"),
        ("storage", "net1"),
        ("net-b", "lan9"),
    ]
    with pytest.raises(networks.UnknownNetwork, match="ns/storage"):
        networks.attachments(thing, default, {}, Path("/s"))


def test_a_plugin_gets_the_lists_name_and_version_and_the_previous_result() -> None:
    config = plugin_config(
        {"name": "n", "cniVersion": "1.0.0"}, {"type": "t", "capabilities": {"mac": True}}, {"ips": []}
    )
    assert config == {"type": "t", "name": "n", "cniVersion": "1.0.0", "prevResult": {"ips": []}}
    assert "prevResult" not in plugin_config({"name": "n", "cniVersion": "1.0.0"}, {"type": "t"}, None)


def test_cni_args_are_those_of_containerd() -> None:
    sandbox = Sandbox("cid", Path("/run/netns/x"), "ns", "pod", "uid")
    assert (
        sandbox.args()
        == "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_INFRA_CONTAINER_ID=cid;K8S_POD_UID=uid"
    )


def test_an_error_without_an_object_has_code_zero() -> None:
    assert parse_error("macvlan", 1, b'{"code": 11, "msg": "m", "details": "d"}', b"").code == 11
    assert parse_error("macvlan", 2, b"", b"panic").code == 0


def test_stopwatch_lines_are_read_and_torn_ones_skipped(tmp_path: Path) -> None:
    times = tmp_path / "times"
    times.write_text("ADD c1 eth0 0 1500000\nDEL c1\n")
    assert shim_times(times) == {("ADD", "c1", "eth0"): 1.5}
    assert shim_times(tmp_path / "none") == {}


def test_judge_accepts_one_clear_error_object_and_nothing_else() -> None:
    good = {"cniVersion": "1.0.0", "code": 6, "msg": "stdin is not JSON", "details": "BadJson; hint: send JSON"}
    assert judge(1, json.dumps(good).encode(), {6}) == []
    assert judge(0, json.dumps(good).encode(), {6})
    assert judge(1, json.dumps(good).encode(), {7})
    assert judge(1, json.dumps({**good, "details": "BadJson"}).encode(), {6})
    assert judge(1, (json.dumps(good) * 2).encode(), {6})
    assert judge(1, b"", {6})
