"""All pools of a cluster, arranged once per change for the questions that selection asks on every ADD."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from functools import lru_cache

from ipam.addresses import Family
from ipam.applications import AppOwner
from ipam.pools import Pool


class Catalog:
    """An immutable view of pools by name, by family and by application. Building it is O(n log n)."""

    __slots__ = ("_by_app", "_by_family", "_by_name", "_defaults")

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._by_name = {pool.name: pool for pool in sorted(pools, key=lambda pool: pool.name)}
        self._by_family: dict[Family, tuple[Pool, ...]] = {
            family: tuple(pool for pool in self._by_name.values() if pool.family is family) for family in Family
        }
        self._defaults = {
            family: tuple(pool for pool in pools_of if pool.default) for family, pools_of in self._by_family.items()
        }
        self._by_app: dict[AppOwner, list[Pool]] = {}
        for pool in self._by_name.values():
            if pool.app is not None:
                self._by_app.setdefault(pool.app, []).append(pool)

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Pool | None:
        """The pool of this name."""
        return self._by_name.get(name)

    def matching(self, family: Family, pattern: str) -> tuple[Pool, ...]:
        """The pools of a family whose names match a shell pattern (`*`, `?`, `[a]`, `[!a]`, `[^a]`), sorted by name."""
        matches = _compiled(pattern).match
        return tuple(pool for pool in self._by_family[family] if matches(pool.name))

    def defaults(self, family: Family) -> tuple[Pool, ...]:
        """The pools with `spec.default: true`, sorted by name; disabled ones too, so that a refusal names them."""
        return self._defaults[family]

    def of_application(self, app: AppOwner, family: Family, interface: str) -> tuple[Pool, ...]:
        """The application pools of one application and interface, sorted by name."""
        return tuple(
            pool for pool in self._by_app.get(app, ()) if pool.family is family and pool.app_interface == interface
        )

    @property
    def has_application_pools(self) -> bool:
        """Whether any pool's fitness depends on a pod's top controller."""
        return bool(self._by_app)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Spiderpool's patterns are Go's, where [^a] negates; the shell's, and Python's, word for it is [!a].
    return re.compile(translate(pattern.replace("[^", "[!")))
