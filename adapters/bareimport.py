"""Import packages without all that they would import.

Some packages import everything they have in their `__init__` (`kubernetes`: two HTTP stacks, informers, leader election; `pyroute2`: every
netlink family). The agent pays for that in resident memory on each node, for code it never calls.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def bare_packages(*names: str) -> Iterator[None]:
    """Within the block, these packages (parents first) are importable as mere directories.

    Afterwards they are forgotten again, so that whoever imports them properly gets all of them; submodules imported within stay loaded.
    Packages that are loaded already are left alone. Raises ModuleNotFoundError.
    """
    bare = []
    try:
        for name in names:
            if name in sys.modules:
                continue
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(
                    f"{name} is not installed; requirements.lock pins the version Nephila needs", name=name
                )
            sys.modules[name] = importlib.util.module_from_spec(spec)
            bare.append(name)
        yield
    finally:
        for name in bare:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def absent_packages(*names: str) -> Iterator[None]:
    """Within the block, importing these optional packages fails as if they were not installed; loaded ones are left alone."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None there means "import fails" (importlib's contract)
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
