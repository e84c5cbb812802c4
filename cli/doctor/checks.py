"""What must be so for Nephila to work: facts in, judgements out. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cli.output import Record
from cli.words import count, some

OK, WARN, FAIL = "ok", "warn", "fail"
LEAST_SERVER = (1, 32)  # the CEL libraries that the CRDs' rules use
LEAST_KERNEL = (5, 10)
LEAST_STATE_BYTES = 64 << 20


class Line(Record):
    """One judgement. `fix` is "" if all is well."""

    level: str
    what: str
    text: str
    fix: str


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the API server told. `crds`: name → served versions; `denied`: verbs that these credentials lack; None: could not be asked.

    `broken_nads`: name → why. `addresses`: how many addresses pods may have by family, for the neighbour tables.
    `unverified`: pool → nodes that hand out its addresses without a probe.
    """

    server_version: str
    crds: Mapping[str, Sequence[str]] | None
    wanted_crds: Mapping[str, str]
    denied: Sequence[str] | None
    broken_nads: Mapping[str, str] | None
    nads: int = 0
    leader: str = ""
    silent_nodes: Sequence[str] = ()
    nodes: int = 0
    unverified: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What this machine tells. `thresholds`: family → gc_thresh1, 2, 3. `plugins`: files of /opt/cni/bin.

    `conflists`: file of /etc/cni/net.d → why it is broken, "" if it is not. `neighbours`: family → addresses that pods have.
    `bpffs`: whether /sys/fs/bpf is mounted. `state_free_bytes`: room for the agent's journal; None if its folder does not exist.
    """

    kernel: str
    thresholds: Mapping[int, Sequence[int]]
    plugins: Sequence[str] | None
    conflists: Mapping[str, str] | None
    uses_nephila: Sequence[str] = ()
    socket: bool = False
    neighbours: Mapping[int, int] = field(default_factory=dict)
    bpffs: bool = True
    state_free_bytes: int | None = None


def _ok(what: str, text: str) -> Line:
    return Line(level=OK, what=what, text=text, fix="")


def _line(level: str, what: str, text: str, fix: str) -> Line:
    return Line(level=level, what=what, text=text, fix=fix)


def cluster_lines(facts: ClusterFacts) -> tuple[Line, ...]:
    """Judgements on the cluster."""
    return (_server(facts), *_crds(facts), _rbac(facts), _nads(facts), _leader(facts), _agents(facts), _proof(facts))


def _server(facts: ClusterFacts) -> Line:
    number = version_of(facts.server_version)
    if number is None:
        return _line(WARN, "API server", f"version {facts.server_version or 'unknown'}", "check that it is ≥ 1.32")
    text = f"version {facts.server_version}"
    if number < LEAST_SERVER:
        return _line(FAIL, "API server", text, "upgrade to 1.32 or later: the CRDs' rules need its CEL libraries")
    return _ok("API server", text)


def _crds(facts: ClusterFacts) -> tuple[Line, ...]:
    if facts.crds is None:
        return (_line(WARN, "CRDs", "cannot be listed", "allow list on customresourcedefinitions, or ask an admin"),)
    missing = [name for name in facts.wanted_crds if name not in facts.crds]
    other = [
        f"{name} (serves {', '.join(facts.crds[name])}, wanted {version})"
        for name, version in facts.wanted_crds.items()
        if name in facts.crds and version not in facts.crds[name]
    ]
    lines = []
    if missing:
        lines.append(_line(FAIL, "CRDs", f"missing: {some(missing)}", "kubectl apply -f crds/yaml"))
    if other:
        lines.append(_line(FAIL, "CRDs", f"of another version: {some(other)}", "kubectl apply -f crds/yaml"))
    return tuple(lines) or (_ok("CRDs", f"all {len(facts.wanted_crds)} are served"),)


def _rbac(facts: ClusterFacts) -> Line:
    if facts.denied is None:
        return _line(WARN, "permissions", "cannot be asked (SelfSubjectAccessReview)", "check RBAC by hand")
    if facts.denied:
        return _line(
            FAIL, "permissions", f"these credentials may not {some(facts.denied)}", "bind a role that allows it"
        )
    return _ok("permissions", "these credentials may read and fence")


def _nads(facts: ClusterFacts) -> Line:
    if facts.broken_nads is None:
        return _line(
            WARN, "networks", "no NetworkAttachmentDefinitions here", "fine if every pod uses the default network"
        )
    if facts.broken_nads:
        shown = some([f"{name}: {why}" for name, why in facts.broken_nads.items()])
        return _line(FAIL, "networks", f"broken: {shown}", "correct spec.config")
    return _ok("networks", f"{count(facts.nads, 'NetworkAttachmentDefinition')}, all readable")


def _leader(facts: ClusterFacts) -> Line:
    if facts.leader:
        return _ok("leader", facts.leader)
    return _line(WARN, "leader", "nobody leads", "do the nephila-leader pods run? see the chart's leader.nodeSelector")


def _agents(facts: ClusterFacts) -> Line:
    if facts.silent_nodes:
        text = f"{len(facts.silent_nodes)} of {count(facts.nodes, 'node')} cannot hand out: {some(facts.silent_nodes)}"
        return _line(WARN, "agents", text, "see `nephila nodes` and the agents' logs")
    return _ok("agents", f"ready on {count(facts.nodes, 'node')}")


def _proof(facts: ClusterFacts) -> Line:
    if facts.unverified:
        shown = some([f"{pool} on {count(nodes, 'node')}" for pool, nodes in facts.unverified.items()])
        fix = "name the interface on their segment in the agents' `parent` or `parents`"
        return _line(WARN, "probing", f"handed out without a probe: {shown}", fix)
    return _ok("probing", "no node hands out addresses without a probe")


def host_lines(facts: HostFacts) -> tuple[Line, ...]:
    """Judgements on this machine."""
    lines = [_kernel(facts.kernel)]
    lines += [_neighbours(family, facts) for family in sorted(facts.thresholds)]
    lines += [*_plugins(facts), *_conflists(facts), _bpf(facts.bpffs), _state(facts.state_free_bytes)]
    if facts.socket:
        lines.append(_ok("agent socket", "present"))
    else:
        lines.append(_line(WARN, "agent socket", "absent", "is the agent's pod running on this node?"))
    return tuple(lines)


def _kernel(release: str) -> Line:
    number = version_of(release)
    if number is None or number < LEAST_KERNEL:
        return _line(WARN, "kernel", release or "unknown", "use 5.10 or later")
    return _ok("kernel", release)


def _neighbours(family: int, facts: HostFacts) -> Line:
    """Beyond gc_thresh3 the kernel drops packets to neighbours it does not know; one L2 segment needs an entry per address it talks to."""
    what, limit = f"IPv{family} neighbour table", facts.thresholds[family][2]
    wanted = facts.neighbours.get(family, 0)
    text = f"gc_thresh1,2,3 = {', '.join(map(str, facts.thresholds[family]))}; {count(wanted, 'address', 'addresses')} in use"
    fix = f"sysctl -w net.ipv{family}.neigh.default.gc_thresh3={max(4096, 2 * wanted)}"
    if wanted > limit:
        return _line(FAIL, what, text, fix)
    if wanted * 2 > limit:
        return _line(WARN, what, text, fix)
    return _ok(what, text)


def _bpf(mounted: bool) -> Line:  # noqa: FBT001  # a fact, not a switch
    if mounted:
        return _ok("eBPF", "/sys/fs/bpf is mounted")
    text = "/sys/fs/bpf is not mounted: frames are watched by packet sockets, which costs more"
    return _line(WARN, "eBPF", text, "mount -t bpf bpf /sys/fs/bpf")


def _state(free_bytes: int | None) -> Line:
    if free_bytes is None:
        return _line(WARN, "state folder", "no /var/lib/nephila", "has the agent ever run on this node?")
    text = f"/var/lib/nephila has {free_bytes >> 20} MiB left"
    if free_bytes < LEAST_STATE_BYTES:
        return _line(FAIL, "state folder", text, "make room: without its journal an agent hands out nothing")
    return _ok("state folder", text)


def _plugins(facts: HostFacts) -> list[Line]:
    if facts.plugins is None:
        return [_line(FAIL, "CNI plugins", "no directory /opt/cni/bin", "is this a Kubernetes node?")]
    if "nephila" not in facts.plugins and "spiderpool" not in facts.plugins:
        return [_line(FAIL, "CNI plugins", "/opt/cni/bin has no nephila", "let the agent's installer run")]
    return [_ok("CNI plugins", f"nephila is among {count(len(facts.plugins), 'plugin')}")]


def _conflists(facts: HostFacts) -> list[Line]:
    if facts.conflists is None:
        return [_line(FAIL, "CNI configuration", "no directory /etc/cni/net.d", "is this a Kubernetes node?")]
    broken = [f"{name}: {why}" for name, why in facts.conflists.items() if why]
    if broken:
        return [_line(FAIL, "CNI configuration", some(broken), "correct the file: the runtime ignores or refuses it")]
    if not facts.conflists:
        return [_line(FAIL, "CNI configuration", "/etc/cni/net.d is empty", "install a network")]
    used = some(facts.uses_nephila) or "none by file (networks of Multus are checked above)"
    return [_ok("CNI configuration", f"{count(len(facts.conflists), 'file')}; IPAM nephila: {used}")]


def version_of(text: str) -> tuple[int, int] | None:
    """(major, minor) of `v1.34.1+k3s` or `6.1.0-13-amd64`."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None
