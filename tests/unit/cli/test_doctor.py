"""Each check judges right, and says how to put it right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cli.doctor.checks import ClusterFacts, HostFacts, Line, cluster_lines, host_lines, version_of
from cli.doctor.command import lines_text
from cli.doctor.host import is_node, read_host

CLUSTER = ClusterFacts(
    server_version="v1.34.1",
    crds={"a.x": ("v1",)},
    wanted_crds={"a.x": "v1"},
    denied=(),
    broken_nads={},
    nads=2,
    leader="node-1",
    nodes=3,
)
HOST = HostFacts(
    kernel="6.1.0-13-amd64",
    thresholds={4: (128, 512, 1024), 6: (128, 512, 1024)},
    plugins=("macvlan", "nephila"),
    conflists={"10-net.conflist": ""},
    uses_nephila=("10-net.conflist",),
    socket=True,
    neighbours={4: 100, 6: 0},
    state_free_bytes=1 << 30,
)


def bad(lines: tuple[Line, ...]) -> list[tuple[str, str]]:
    return [(line.level, line.what) for line in lines if line.level != "ok"]


def test_a_sound_cluster_and_node_have_nothing_to_fix() -> None:
    lines = cluster_lines(CLUSTER) + host_lines(HOST)
    assert bad(lines) == []
    assert all(not line.fix for line in lines)


@pytest.mark.parametrize(
    ("facts", "level", "what", "fix"),
    [
        (replace(CLUSTER, server_version="v1.31.9"), "fail", "API server", "1.32"),
        (replace(CLUSTER, server_version=""), "warn", "API server", "1.32"),
        (replace(CLUSTER, crds={}), "fail", "CRDs", "kubectl apply"),
        (replace(CLUSTER, crds={"a.x": ("v1beta1",)}), "fail", "CRDs", "kubectl apply"),
        (replace(CLUSTER, crds=None), "warn", "CRDs", "allow list"),
        (replace(CLUSTER, denied=("patch ipblocks",)), "fail", "permissions", "bind a role"),
        (replace(CLUSTER, denied=None), "warn", "permissions", "RBAC"),
        (replace(CLUSTER, broken_nads={"a/b": "not JSON"}), "fail", "networks", "spec.config"),
        (replace(CLUSTER, leader=""), "warn", "leader", "nephila-leader"),
        (replace(CLUSTER, silent_nodes=("n (Silent)",)), "warn", "agents", "nephila nodes"),
        (replace(CLUSTER, unverified={"far": 2}), "warn", "probing", "parents"),
    ],
)
def test_what_is_wrong_with_a_cluster(facts: ClusterFacts, level: str, what: str, fix: str) -> None:
    lines = cluster_lines(facts)
    assert bad(lines) == [(level, what)]
    assert fix in next(line.fix for line in lines if line.level != "ok")


@pytest.mark.parametrize(
    ("facts", "level", "what", "fix"),
    [
        (replace(HOST, neighbours={4: 600}), "warn", "IPv4 neighbour table", "gc_thresh3=4096"),
        (replace(HOST, neighbours={4: 5000}), "fail", "IPv4 neighbour table", "gc_thresh3=10000"),
        (replace(HOST, kernel="4.18.0"), "warn", "kernel", "5.10"),
        (replace(HOST, plugins=("macvlan",)), "fail", "CNI plugins", "installer"),
        (replace(HOST, plugins=None), "fail", "CNI plugins", "node"),
        (replace(HOST, conflists={"x.conf": "not JSON"}), "fail", "CNI configuration", "correct"),
        (replace(HOST, conflists={}), "fail", "CNI configuration", "install"),
        (replace(HOST, bpffs=False), "warn", "eBPF", "mount -t bpf"),
        (replace(HOST, state_free_bytes=None), "warn", "state folder", "ever run"),
        (replace(HOST, state_free_bytes=1 << 20), "fail", "state folder", "make room"),
        (replace(HOST, socket=False), "warn", "agent socket", "agent's pod"),
    ],
)
def test_what_is_wrong_with_a_node(facts: HostFacts, level: str, what: str, fix: str) -> None:
    lines = host_lines(facts)
    assert bad(lines) == [(level, what)]
    assert fix in next(line.fix for line in lines if line.level != "ok")


def test_a_node_is_read_from_its_file_system(tmp_path: Path) -> None:
    assert not is_node(tmp_path)
    for folder, name, text in (
        ("etc/cni/net.d", "10-a.conflist", '{"plugins": [{"ipam": {"type": "nephila"}}]}'),
        ("etc/cni/net.d", "20-b.conf", "{"),
        ("etc/cni/net.d", "README", "no configuration"),
        ("opt/cni/bin", "nephila", ""),
        ("proc/sys/kernel", "osrelease", "6.1.0\n"),
        ("proc", "mounts", "none /sys/fs/bpf bpf rw 0 0\n"),
        ("var/lib/nephila", "journal", ""),
        *(("proc/sys/net/ipv4/neigh/default", f"gc_thresh{n}", f"{n}28\n") for n in (1, 2, 3)),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(text)
    assert is_node(tmp_path)
    facts = read_host(tmp_path, {4: 1})
    assert facts.thresholds == {4: (128, 228, 328)}
    assert facts.kernel == "6.1.0"
    assert facts.uses_nephila == ("10-a.conflist",)
    assert facts.conflists is not None
    assert facts.conflists["10-a.conflist"] == ""
    assert facts.conflists["20-b.conf"].startswith("not JSON")
    assert "README" not in facts.conflists
    assert not facts.socket
    assert facts.bpffs
    assert facts.state_free_bytes is not None


def test_lines_show_the_fix_below_the_finding() -> None:
    text = lines_text(cluster_lines(replace(CLUSTER, crds={})))
    assert "fail  CRDs         missing: a.x\n" in text
    assert "fix: kubectl apply -f crds/yaml\n" in text


@pytest.mark.parametrize(("text", "number"), [("v1.34.1+k3s1", (1, 34)), ("6.1.0-13-amd64", (6, 1)), ("dev", None)])
def test_versions(text: str, number: tuple[int, int] | None) -> None:
    assert version_of(text) == number
