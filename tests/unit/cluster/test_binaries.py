"""When the control plane is built, found again, or refused; with a stand-in for Go."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from e2e.cluster.binaries import PROGRAMS, SOURCE, BuildFailed, ensure, find_go, pins

GO = """#!/bin/sh
[ "$1" = version ] && { echo "go version go%s linux/amd64"; exit; }
echo "$@" >> "$NEPHILA_CACHE/calls"
%s
"""
LINK = """while [ "$1" != -o ]; do shift; done; printf '#!/bin/sh\\n' > "$2"; chmod +x "$2" """


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEPHILA_CACHE", str(tmp_path))
    return tmp_path


def use_go(cache: Path, monkeypatch: pytest.MonkeyPatch, *, version: str = "1.26.8", action: str = LINK) -> Path:
    go = cache / "go"
    go.write_text(GO % (version, action))
    go.chmod(0o755)
    monkeypatch.setenv("NEPHILA_GO", str(go))
    return go


def test_every_staging_module_is_pinned_to_the_release_of_kubernetes() -> None:
    release = re.fullmatch(r"v1\.(\d+\.\d+)", pins().kubernetes)
    assert release is not None
    replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert len(replaced) > 25
    assert [entry for entry in replaced if entry[0] != entry[1] or entry[2] != f"v0.{release[1]}"] == []


def test_builds_once_and_finds_the_result_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_go(cache, monkeypatch)
    built, found = ensure(), ensure()
    assert (built.folder, built.go) == (found.folder, "go1.26.8")
    assert built.seconds > 0.0 == found.seconds
    assert {path.name for path in built.folder.iterdir()} == {*PROGRAMS, "nephila-kube"}
    calls = (cache / "calls").read_text().splitlines()
    assert len(calls) == 1
    assert f"-X k8s.io/component-base/version.gitVersion={pins().kubernetes} " in calls[0]


def test_another_go_version_builds_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_go(cache, monkeypatch)
    first = ensure()
    use_go(cache, monkeypatch, version="1.27.0")
    assert ensure().folder != first.folder


def test_only_the_newest_results_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    for patch in range(5):
        use_go(cache, monkeypatch, version=f"1.26.{patch}")
        built.append(ensure().folder)
        os.utime(built[-1], (patch, patch))
    assert {path for path in (cache / "kube").iterdir() if path.is_dir()} == set(built[-3:])


def test_failed_build_says_why_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_go(cache, monkeypatch, action="echo 'main.go:1: broken' >&2; exit 1")
    with pytest.raises(BuildFailed, match=r"main\.go:1: broken"):
        ensure()
    assert [path.name for path in (cache / "kube").iterdir()] == [".lock"]


def test_too_old_a_go_is_refused_by_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = use_go(cache, monkeypatch, version="1.19.8")
    monkeypatch.setattr("e2e.cluster.binaries.shutil.which", lambda _: None)
    monkeypatch.setattr("e2e.cluster.binaries.SYSTEM_GO", "/nonexistent/go")
    with pytest.raises(BuildFailed, match=rf"Go 1\.26 or newer is needed; found {go} \(go1\.19\.8\)"):
        find_go()
