"""The release binary: static, reproducible, hardened, with the deadlines of the contract."""

import subprocess
from pathlib import Path

import pytest

from cni import build


@pytest.fixture(scope="module")
def release(short_root: Path) -> Path:
    return build.build(short_root / "plain")


def headers(binary: Path) -> str:
    return subprocess.run(["readelf", "-lW", binary], capture_output=True, text=True, check=True).stdout


def test_is_one_static_file_that_needs_nothing_on_the_host(release: Path) -> None:
    assert "INTERP" not in headers(release)
    assert "DYNAMIC" not in headers(release)
    assert release.stat().st_size < 64 * 1024


def test_has_no_executable_stack_and_no_page_both_writable_and_executable(release: Path) -> None:
    segments = [
        line.split() for line in headers(release).splitlines() if line.strip().startswith(("LOAD", "GNU_STACK"))
    ]
    assert any(segment[0] == "GNU_STACK" for segment in segments)
    for segment in segments:
        flags = "".join(segment[6:-1])
        assert not ("W" in flags and "E" in flags), segment


def test_two_builds_are_the_same_bytes_wherever_they_are_made(release: Path, tmp_path: Path) -> None:
    again = build.build(tmp_path / "elsewhere")
    assert again.read_bytes() == release.read_bytes()
    assert str(build.HERE).encode() not in release.read_bytes()


def test_says_which_package_is_missing(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="no-such-cc is not installed; fix: apt-get install"):
        build.compile_c("no-such-cc", build.HERE / "shim.c", tmp_path / "x", [])


def test_shows_what_the_compiler_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "bad.c"
    source.write_text("int main(void) { return nothing; }")
    with pytest.raises(build.BuildError, match="nothing"):
        build.compile_c("gcc", source, tmp_path / "x", [])
    assert build.main([str(tmp_path / "out")]) == 0
    assert "out/nephila (" in capsys.readouterr().out
