"""The installer on real directories: atomic, idempotent, reversible, honest about other programs' files."""

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cni import build
from cni.install import Change, InstallError, Outcome, install, main, previous_of, uninstall

FOREIGN = b"\x7fELF the real spiderpool"


@pytest.fixture(scope="module")
def old(short_root: Path) -> Path:
    return build.build(short_root / "old", defines=['NEPHILA_SOCKET="/run/old.sock"'])


@pytest.fixture(scope="module")
def new(short_root: Path) -> Path:
    return build.build(short_root / "new")


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def outcomes(changes: list[Change]) -> list[Outcome]:
    return [change.outcome for change in changes]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_installs_two_executable_copies(new: Path, bin_dir: Path) -> None:
    umask = os.umask(0o077)
    try:
        assert outcomes(install(new, bin_dir)) == [Outcome.INSTALLED, Outcome.INSTALLED]
    finally:
        os.umask(umask)
    assert names(bin_dir) == ["nephila", "spiderpool"]
    for path in bin_dir.iterdir():
        assert path.read_bytes() == new.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert not path.is_symlink()
        done = subprocess.run([path], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True)
        assert b"supportedVersions" in done.stdout


def test_writes_nothing_when_the_content_is_there(new: Path, bin_dir: Path) -> None:
    install(new, bin_dir)
    before = {path.name: (path.stat().st_ino, path.stat().st_ctime_ns) for path in bin_dir.iterdir()}
    directory_before = bin_dir.stat().st_mtime_ns
    assert outcomes(install(new, bin_dir)) == [Outcome.UNCHANGED, Outcome.UNCHANGED]
    assert {path.name: (path.stat().st_ino, path.stat().st_ctime_ns) for path in bin_dir.iterdir()} == before
    assert bin_dir.stat().st_mtime_ns == directory_before


def test_repairs_a_lost_executable_bit_and_keeps_the_previous_version(old: Path, new: Path, bin_dir: Path) -> None:
    install(old, bin_dir)
    install(new, bin_dir)
    (bin_dir / "nephila").chmod(0o600)
    assert outcomes(install(new, bin_dir)) == [Outcome.UPDATED, Outcome.UNCHANGED]
    assert stat.S_IMODE((bin_dir / "nephila").stat().st_mode) == 0o755
    assert previous_of(bin_dir / "nephila").read_bytes() == old.read_bytes()


def test_an_update_keeps_the_version_before_for_rollback(old: Path, new: Path, bin_dir: Path) -> None:
    install(old, bin_dir)
    assert outcomes(install(new, bin_dir)) == [Outcome.UPDATED, Outcome.UPDATED]
    kept = bin_dir / ".nephila.previous"
    assert kept.read_bytes() == old.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o755
    kept.rename(bin_dir / "nephila")  # the rollback
    assert (bin_dir / "nephila").read_bytes() == old.read_bytes()


def test_a_running_binary_can_be_replaced_and_is_never_seen_half_written(old: Path, new: Path, bin_dir: Path) -> None:
    install(old, bin_dir)
    stop = threading.Event()
    failures: list[object] = []

    def execute() -> None:
        while not stop.is_set():
            try:
                done = subprocess.run(
                    [bin_dir / "nephila"], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=False
                )
                if done.returncode != 0:
                    failures.append(done)
            except OSError as error:
                failures.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    for _ in range(20):
        install(new, bin_dir)
        install(old, bin_dir)
    stop.set()
    thread.join()
    assert failures == []
    assert names(bin_dir) == [".nephila.previous", ".spiderpool.previous", "nephila", "spiderpool"]


def test_never_loses_a_foreign_spiderpool_and_brings_it_back(old: Path, new: Path, bin_dir: Path) -> None:
    foreign = bin_dir / "spiderpool"
    foreign.write_bytes(FOREIGN)
    foreign.chmod(0o750)
    changes = install(old, bin_dir)
    assert outcomes(changes) == [Outcome.INSTALLED, Outcome.TOOK_OVER]
    assert "another program" in str(changes[1])
    install(new, bin_dir)  # an update must not push the only copy of the foreign file out
    assert previous_of(foreign).read_bytes() == FOREIGN
    assert outcomes(uninstall(bin_dir)) == [Outcome.REMOVED, Outcome.RESTORED]
    assert names(bin_dir) == ["spiderpool"]
    assert foreign.read_bytes() == FOREIGN
    assert stat.S_IMODE(foreign.stat().st_mode) == 0o750


def test_uninstall_leaves_a_foreign_file_alone_and_can_be_repeated(new: Path, bin_dir: Path) -> None:
    install(new, bin_dir)
    (bin_dir / "spiderpool").write_bytes(FOREIGN)  # the other program was installed again meanwhile
    assert outcomes(uninstall(bin_dir)) == [Outcome.REMOVED, Outcome.FOREIGN]
    assert outcomes(uninstall(bin_dir)) == [Outcome.ABSENT, Outcome.FOREIGN]
    assert names(bin_dir) == ["spiderpool"]


def test_replaces_a_link_by_a_file_of_its_own(new: Path, bin_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(FOREIGN)
    (bin_dir / "nephila").symlink_to(target)
    assert outcomes(install(new, bin_dir))[0] is Outcome.TOOK_OVER
    assert target.read_bytes() == FOREIGN
    assert not (bin_dir / "nephila").is_symlink()


def test_says_what_to_do_when_the_directory_does_not_allow_it(new: Path, bin_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="missing is not a directory; fix: "):
        install(new, tmp_path / "missing")
    with pytest.raises(InstallError, match="must be writable"):
        install(new, Path("/proc/self"))
    (bin_dir / "spiderpool").mkdir()
    with pytest.raises(InstallError, match="spiderpool: Is a directory; fix: "):
        install(new, bin_dir)


def test_refuses_a_source_that_is_not_the_shim(bin_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="fix: build it"):
        install(tmp_path / "none", bin_dir)
    (tmp_path / "other").write_bytes(FOREIGN)
    with pytest.raises(InstallError, match="is not the Nephila CNI binary"):
        install(tmp_path / "other", bin_dir)
    assert names(bin_dir) == []


@pytest.mark.netns
def test_a_read_only_mount_is_reported_and_nothing_is_left(new: Path, bin_dir: Path) -> None:
    script = (
        'mount -t tmpfs none "$1" && cp "$2" "$1/spiderpool" && mount -o remount,ro "$1" && '
        '"$3" -m cni.install --bin-dir "$1" --source "$2"; echo "exit $?"; ls -A "$1"'
    )
    unshare = shutil.which("unshare")
    assert unshare
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", script, "sh", bin_dir, new, sys.executable],
        cwd=build.HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Read-only file system; fix: " in done.stderr
    assert done.stdout == "exit 1\nspiderpool\n"


def test_command_line_reports_each_name(new: Path, bin_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bin-dir", str(bin_dir), "--source", str(new)]) == 0
    assert capsys.readouterr().out == f"{bin_dir}/nephila: installed\n{bin_dir}/spiderpool: installed\n"
    assert main(["--bin-dir", str(bin_dir), "--uninstall"]) == 0
    assert main(["--bin-dir", str(bin_dir / "none")]) == 1
    assert "is not a directory" in capsys.readouterr().err
