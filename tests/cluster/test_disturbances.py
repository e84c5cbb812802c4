"""Restarts, lost history and the end of a cluster."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.cluster.binaries import Binaries
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.program import ClusterFailed
from e2e.cluster.workdir import YOUNG_S, WorkDir
from tests.cluster.objects import CONFIG_MAPS, config_map, must


async def test_objects_survive_a_crash_of_etcd_and_of_the_api_server(cluster: ControlPlane) -> None:
    admin = cluster.client()
    created = await must(admin.post(CONFIG_MAPS, config_map("survivor", empty="")))
    await cluster.restart_etcd()
    await cluster.restart_apiserver()
    found = await must(admin.get(f"{CONFIG_MAPS}/survivor"), 200)
    assert (found["metadata"]["uid"], found["data"]) == (created["metadata"]["uid"], {"empty": ""})
    await must(admin.post(CONFIG_MAPS, config_map("after")))


async def test_api_server_that_is_down_gives_no_answer(cluster: ControlPlane) -> None:
    await cluster.apiserver.kill()
    assert (await cluster.client().get("/readyz")).status == 0
    cluster.apiserver.start()
    await cluster.ready()


async def test_paused_api_server_is_silent_and_comes_back(cluster: ControlPlane) -> None:
    cluster.apiserver.pause()
    answer = await cluster.client().get("/readyz", timeout_s=0.5)
    cluster.apiserver.resume()
    assert answer.status == 0
    assert "timed out" in answer.message
    await cluster.ready()


async def test_compaction_ends_old_list_continuations_with_410(cluster: ControlPlane) -> None:
    admin = cluster.client()
    for number in range(4):
        await must(admin.post(CONFIG_MAPS, config_map(f"page-{number}")))
    page = await must(admin.get(f"{CONFIG_MAPS}?limit=2"), 200)
    token = page["metadata"]["continue"]
    assert (await admin.get(f"{CONFIG_MAPS}?limit=2&continue={token}")).status == 200
    await must(admin.post(CONFIG_MAPS, config_map("later")))
    await cluster.expire_history()
    answer = await admin.get(f"{CONFIG_MAPS}?limit=2&continue={token}")
    assert (answer.status, answer.body["reason"]) == (410, "Expired")
    rest = await must(admin.get(f"{CONFIG_MAPS}?limit=100&continue={answer.body['metadata']['continue']}"), 200)
    seen = [item["metadata"]["name"] for item in rest["items"]]
    assert {"page-2", "page-3"} <= set(seen)
    assert page["items"][1]["metadata"]["name"] < min(seen)


async def test_watch_from_expired_history_gets_410(cluster: ControlPlane) -> None:
    admin = cluster.client()
    old = (await must(admin.get(CONFIG_MAPS), 200))["metadata"]["resourceVersion"]
    await must(admin.post(CONFIG_MAPS, config_map("newer")))
    await cluster.expire_history()
    answer = await admin.get(f"{CONFIG_MAPS}?watch=1&timeoutSeconds=2&resourceVersion={old}")
    status = answer.body if answer.status == 410 else answer.body["object"]  # before or after the stream began
    assert (status["code"], status["reason"]) == (410, "Expired")


async def test_nothing_is_left_after_stop(binaries: Binaries) -> None:
    cluster = ControlPlane(binaries)
    async with cluster:
        folder, ports = cluster.layout.folder, cluster.layout.ports
        assert len(_processes_of(folder)) == 4
    assert folder not in _folders()
    assert _processes_of(folder) == []
    for port in (ports.etcd, ports.apiserver, ports.scheduler):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    with pytest.raises(ClusterFailed, match="not started"):
        _ = cluster.url


async def test_failed_start_shows_the_log_and_leaves_nothing(
    binaries: Binaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2e.cluster.flags.ISSUER", "not a url:")
    with pytest.raises(ClusterFailed, match=r"(?s)kube-apiserver ended with code 1 while starting.*issuer") as failure:
        await ControlPlane(binaries).start()
    log = re.search(r"--- last \d+ lines of (/dev/shm/\S+)/kube-apiserver.log ---", str(failure.value))
    assert log is not None
    assert Path(log[1]) not in _folders()
    assert _processes_of(Path(log[1])) == []


def test_killed_holder_leaves_no_process_and_its_folder_is_swept() -> None:
    holder = subprocess.Popen([sys.executable, "-m", "e2e.cluster", "up"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout as lines:
        kubeconfig = next(line.split("=", 1)[1].strip() for line in lines if line.startswith("export KUBECONFIG="))
        folder = Path(kubeconfig).parent
        assert len(_processes_of(folder)) == 4
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    deadline = time.monotonic() + 5
    while _processes_of(folder):
        assert time.monotonic() < deadline, "processes outlived their holder by 5 s"
        time.sleep(0.05)
    aged = folder.stat().st_mtime - 2 * YOUNG_S
    os.utime(folder, (aged, aged))
    WorkDir().remove()
    assert folder not in _folders()


def _folders() -> set[Path]:
    return set(Path("/dev/shm").glob("nephila-cluster-*"))


def _processes_of(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(int(entry.name))
    return found
