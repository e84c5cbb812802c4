"""What a runtime or a user can get wrong: each mistake gets one CNI error object with a code, a reason and a hint, and nothing is allocated."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2e.lab import checks, labs, netns
from e2e.lab.agents import Agent
from e2e.lab.objects import Object, name_of, namespace_of, uid_of
from e2e.lab.run import Run

TITLE = "Every kind of wrong input gets one clear error"
NODES = 1
NODE = "node-1"
CONTAINER = "0123456789abcdef" * 4
CODES_EXPECTED = {
    "broken JSON": {6},
    "a key of the wrong type": {6, 7},
    "a CNI version nobody speaks": {1},
    "no CNI_CONTAINERID": {4},
    "no CNI_NETNS": {4},
    "no CNI_IFNAME": {4},
    "an over-long container id": {4},
    "a container id that is a path": {4},
    "an interface name the kernel refuses": {4},
    "a line break in CNI_ARGS": {4},
    "no pod in CNI_ARGS": {4},
    "a pod that does not exist": {120},
    "an unknown pool": {112},
    "a pool without addresses": {11, 111},
    "a pool of the wrong family": {111, 101},
    "an annotation that is not JSON": {101},
    "a socket that does not answer": {11},
    "a socket that is not there": {11},
    "a configuration of more than 64 KiB": {6, 7},
}
POOL_ANNOTATION = "ipam.spidernet.io/ippool"
PODS = {
    "unknown-pool": '{"ipv4": ["no-such-pool"]}',
    "empty-pool": '{"ipv4": ["empty"]}',
    "wrong-family": '{"ipv4": ["default-v6"]}',
    "bad-annotation": '{"ipv4": [',
}
EMPTY_POOL: Object = {
    "apiVersion": "spiderpool.spidernet.io/v2beta1",
    "kind": "SpiderIPPool",
    "metadata": {"name": "empty"},
    "spec": {"subnet": "10.6.0.0/16", "gateway": "10.6.0.1", "ips": []},
}


def _encoded(good: Object) -> bytes:
    return json.dumps(good).encode()


@dataclass(frozen=True, slots=True)
class Case:
    """`stdin` spoils a good configuration; `environment` replaces variables of a good call; None removes one."""

    name: str
    environment: Mapping[str, str | None] = field(default_factory=dict)
    stdin: Callable[[Object], bytes] = _encoded
    socket: Path | None = None
    pod: str = ""


async def run(run: Run) -> None:
    lab = run.lab
    lab.cluster.kubelets.clear()  # the scenario is the runtime; nobody else may call ADD for its pods
    async with run.step("pools and pods made"):
        await lab.cluster.apply([thing for thing in labs.manifests() if thing["kind"].startswith("Spider")])
        await lab.api.apply(EMPTY_POOL)
        pods = {name: await _bare_pod(run, name, annotation) for name, annotation in PODS.items()}
    agent = lab.agents[NODE]
    sandbox = await asyncio.to_thread(netns.create, lab.fabric.pod_ns("bad-input"))
    with silent_socket(lab.run_dir / "silent.sock") as silent:
        cases = list(_cases(silent, lab.run_dir / "absent.sock"))
        async with run.step(f"{len(cases)} mistakes") as finding:
            told = await asyncio.gather(*(_try(agent, sandbox, case, pods) for case in cases))
            finding.problems += [problem for problems in told for problem in problems]
    async with run.step("nothing is allocated") as finding:
        finding.problems += await checks.held(lab.journals(), [])
        finding.problems += await checks.match_endpoints(lab.api, [])


def _cases(silent: Path, absent: Path) -> Iterator[Case]:
    yield Case("broken JSON", stdin=lambda good: json.dumps(good).encode()[:-1])
    yield Case("a key of the wrong type", stdin=lambda good: json.dumps({**good, "name": 7}).encode())
    yield Case("a CNI version nobody speaks", stdin=lambda good: json.dumps({**good, "cniVersion": "9.9.9"}).encode())
    yield Case(
        "a configuration of more than 64 KiB", stdin=lambda good: json.dumps({**good, "filler": "x" * 70_000}).encode()
    )
    for variable in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
        yield Case(f"no {variable}", {variable: None})
    yield Case("an over-long container id", {"CNI_CONTAINERID": "a" * 300})
    yield Case("a container id that is a path", {"CNI_CONTAINERID": "../../etc/passwd"})
    yield Case("an interface name the kernel refuses", {"CNI_IFNAME": "a/b"})
    yield Case("a line break in CNI_ARGS", {"CNI_ARGS": "K8S_POD_NAME=a\r\nCni-Command: DEL"})
    yield Case("no pod in CNI_ARGS", {"CNI_ARGS": "IgnoreUnknown=1"})
    yield Case("a pod that does not exist", pod="nobody")
    yield Case("an unknown pool", pod="unknown-pool")
    yield Case("a pool without addresses", pod="empty-pool")
    yield Case("a pool of the wrong family", pod="wrong-family")
    yield Case("an annotation that is not JSON", pod="bad-annotation")
    yield Case("a socket that does not answer", socket=silent)
    yield Case("a socket that is not there", socket=absent)


async def _bare_pod(run: Run, name: str, annotation: str) -> Object:
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": {POOL_ANNOTATION: annotation}},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "busybox:1"}]},
    }
    return await run.lab.api.apply(pod)


async def _try(agent: Agent, sandbox: Path, case: Case, pods: Mapping[str, Object]) -> list[str]:
    pod = pods.get(case.pod) or {"metadata": {"name": case.pod or "nobody", "namespace": "default", "uid": "0"}}
    variables: dict[str, str | None] = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": CONTAINER,
        "CNI_NETNS": str(sandbox),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/usr/lib/cni",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace_of(pod)};K8S_POD_NAME={name_of(pod)};K8S_POD_UID={uid_of(pod)}",
        **case.environment,
    }
    ipam = {"type": "nephila", "ipam_unix_socket_path": str(case.socket or agent.socket)}
    good: Object = {"cniVersion": "1.0.0", "name": "underlay", "type": "macvlan", "master": "ul0", "ipam": ipam}
    environment = {name: value for name, value in variables.items() if value is not None}
    status, output, _ = await agent.executor.execute("nephila", case.stdin(good), environment)
    return [f"{case.name}: {problem}" for problem in judge(status, output, CODES_EXPECTED[case.name])]


def judge(status: int, output: bytes, codes: set[int]) -> list[str]:
    """What is wrong with a plugin's answer to a mistake (CNI specification 1.0, section "Error")."""
    try:
        error = json.loads(output)
    except ValueError:
        return [f"exit status {status}, and stdout is not one JSON object: {output[:200]!r}"]
    if not isinstance(error, dict):
        return [f"stdout is {output[:200]!r}"]
    problems = []
    if status != 1:
        problems.append(f"exit status {status}, not 1")
    if error.get("code") not in codes:
        problems.append(f"code {error.get('code')} instead of {sorted(codes)}: {error.get('msg')!r}")
    if not error.get("cniVersion") or not error.get("msg"):
        problems.append(f"cniVersion or msg is missing: {output[:200]!r}")
    reason, separator, hint = str(error.get("details", "")).partition("; hint: ")
    if not separator or not reason.isalpha() or not hint:
        problems.append(f"details hold no reason and hint: {error.get('details')!r}")
    return problems


@contextlib.contextmanager
def silent_socket(path: Path) -> Iterator[Path]:
    """Accepts connections into its backlog and never reads one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(16)
        yield path
