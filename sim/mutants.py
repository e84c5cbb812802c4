"""Planted bugs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

MUTANTS: Mapping[str, Callable[[], None]] = {}


def plant(name: str) -> None:
    MUTANTS[name]()
