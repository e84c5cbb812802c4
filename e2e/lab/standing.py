"""A lab that stays: a process of its own keeps it, a small file says where it is."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import yaml

from e2e.lab import labs, netns
from e2e.lab.agents import API_PORT
from e2e.lab.objects import key_of

STATE = labs.HOME / "standing.json"
LOG = labs.HOME / "standing.log"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


class StandingError(RuntimeError):
    """There is no lab, or there is one already, or it did not come up."""


@dataclass(frozen=True, slots=True)
class State:
    """Where the standing lab is. `birth` tells its process from another one of the same number."""

    pid: int
    birth: str
    prefix: str
    run_dir: str
    kubeconfig: str
    page: str


def current() -> State | None:
    """The lab that stands; None if there is none or its process is gone."""
    try:
        state = State(**json.loads(STATE.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return state if labs.birth_of(state.pid) == state.birth else None


def start(nodes: int, apply: Literal["examples", "nothing"]) -> State:
    """Starts the keeper and returns once the lab can be used. Raises StandingError."""
    if current() is not None:
        raise StandingError("a lab stands already; `nephila lab down` takes it down")
    labs.HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
    STATE.unlink(missing_ok=True)
    extra = ["--empty"] if apply == "nothing" else []
    with LOG.open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "e2e.lab", "serve", "--nodes", str(nodes), *extra],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        state = current()
        if state is not None:
            return state
        if keeper.poll() is not None:
            raise StandingError(f"the lab did not come up:\n{LOG.read_text(errors='replace')}")
        time.sleep(0.1)
    keeper.terminate()
    raise StandingError(f"the lab did not come up in {START_TIMEOUT_S:.0f} s; see {LOG}")


def stop() -> bool:
    """Ends the keeper, which takes everything down; what a dead keeper left is removed too. False if there was nothing."""
    state = current()
    if state is not None:
        os.kill(state.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while labs.birth_of(state.pid) == state.birth and time.monotonic() < deadline:
            time.sleep(0.05)
    swept = labs.sweep()
    STATE.unlink(missing_ok=True)
    LOG.unlink(missing_ok=True)
    if labs.HOME.is_dir() and not any(labs.HOME.iterdir()):
        labs.HOME.rmdir()
    return state is not None or bool(swept)


async def serve(nodes: int, apply: Literal["examples", "nothing"]) -> None:
    """Keeps a lab until cancelled."""
    async with labs.build(labs.Plan(nodes)) as lab:
        if apply == "examples":
            await lab.cluster.apply(labs.manifests())
        kubeconfig = write_kubeconfig(lab.run_dir / "kubeconfig", lab.server.url)
        write_kubeconfig(lab.run_dir / "kubeconfig-node", f"http://127.0.0.1:{API_PORT}")
        state = State(os.getpid(), labs.birth_of(os.getpid()), lab.prefix, str(lab.run_dir), str(kubeconfig), lab.page)
        _write(STATE, asdict(state))
        try:
            while True:
                places = {
                    "/".join(key_of(worker.pod)): worker.sandbox.netns.name
                    for _, worker in lab.cluster.running()
                    if worker.sandbox
                }
                _write(lab.run_dir / "pods.json", places)
                await asyncio.sleep(1.0)
        finally:
            STATE.unlink(missing_ok=True)


def enter(where: str, command: list[str]) -> int:
    """Replaces nothing: runs the command (or a shell) as a child and returns its status. Raises StandingError, ValueError."""
    state = current()
    if state is None:
        raise StandingError("no lab stands; `nephila lab up` starts one")
    kubeconfig = state.kubeconfig if not where else f"{state.run_dir}/kubeconfig-node"
    inside = ["nsenter", f"--net={netns.path_of(_namespace(state, where))}"] if where else []
    environment = {
        **os.environ,
        "KUBECONFIG": kubeconfig,
        "NEPHILA_LAB": state.run_dir,
        "PS1": f"[{where or 'lab'}] \\w # ",
    }
    argv = command or [os.environ.get("SHELL", "/bin/bash")]
    return subprocess.run([*inside, *argv], env=environment, check=False).returncode


def _namespace(state: State, where: str) -> str:
    if "/" in where:
        places: dict[str, str] = json.loads((Path(state.run_dir) / "pods.json").read_text())
        if where not in places:
            raise ValueError(f"no running pod {where}; there are: {', '.join(sorted(places)[:10])}")
        return places[where]
    name = f"{state.prefix}-{where}"
    if name not in netns.names(f"{state.prefix}-"):
        raise ValueError(f"no {where!r} in the lab; there are node-1 …, gateway, foreign, fabric, NAMESPACE/POD")
    return name


def write_kubeconfig(path: Path, url: str) -> Path:
    """For kubectl and clients: the lab's server needs no credentials."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "lab", "user": {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    path.write_text(yaml.safe_dump(config))
    return path


def _write(path: Path, value: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value))
    fresh.rename(path)
