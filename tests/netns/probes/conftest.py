from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from probes.ebpf.libbpf import Libbpf
from tests.netns.probes.lan import Lan, lan


@pytest.fixture(name="net")
def _net() -> Iterator[Lan]:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    with lan() as made:
        yield made


@pytest.fixture(scope="session")
def _bpf() -> None:
    """Skips, by what the kernel says of itself, only where it has no tc programs or ring buffers."""
    missing = Libbpf().supported()
    if missing:
        pytest.skip(missing)
