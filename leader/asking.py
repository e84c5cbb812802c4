"""What one application asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ipam.applications import WantedPool
from ipam.errors import NephilaError
from ipam.owners import TopOwner

AppKey: TypeAlias = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Asking:
    """What one workload asks for. `error`: its annotations cannot be read; then nothing is known of what it wants."""

    owner: TopOwner
    replicas: int
    wants: tuple[WantedPool, ...]
    error: NephilaError | None = None

    @property
    def subnets(self) -> frozenset[str]:
        return frozenset(want.subnet for want in self.wants)


def key_of(owner: TopOwner) -> AppKey:
    """API group, kind, namespace and name: kinds of several groups may share a name."""
    return owner.group, owner.kind, owner.namespace, owner.name
