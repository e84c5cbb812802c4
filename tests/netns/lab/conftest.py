"""Lab tests need root. Each runs in a process of its own name prefix, so they may run beside each other and beside `make lab`."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/netns/lab" in str(item.path):
            item.add_marker(pytest.mark.netns)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))
