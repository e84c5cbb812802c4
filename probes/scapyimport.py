"""Imports scapy without what Nephila never uses, and without leaving traces.

A plain import costs 58 MiB and 0.4 s the first time (a table of 40,000 vendors, Bluetooth companies, `cryptography`)
and writes caches and folders into the home directory. Here it costs about 15 MiB and writes nothing: the tables are
replaced by empty ones while the import runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_EMPTY_TABLES: dict[str, object] = {"scapy.libs.manuf": "", "scapy.libs.bluetoothids": {}}
_FOLDERS = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME")
_NOWHERE = "/dev/null/none"  # cannot be created, so scapy goes without caches and start-up files


@contextmanager
def lean_scapy() -> Iterator[None]:
    """Import scapy's layers inside this context. Process environment and `sys.modules` are as before afterwards,
    except for scapy itself.
    """
    environment = {name: os.environ.get(name) for name in _FOLDERS}
    os.environ.update(dict.fromkeys(_FOLDERS, _NOWHERE))
    placed = [name for name in _EMPTY_TABLES if name not in sys.modules]
    for name in placed:
        table = ModuleType(name)
        table.__dict__["DATA"] = _EMPTY_TABLES[name]
        sys.modules[name] = table
    hide = "cryptography" not in sys.modules
    if hide:
        sys.modules["cryptography"] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        yield
    finally:
        if hide:
            del sys.modules["cryptography"]
        for name in placed:
            del sys.modules[name]
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
