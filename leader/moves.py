"""Slots that were seen to move into and out of leases since the nodes last reported: blocks tell sooner than heartbeats do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ipam.blocks import Block
from ipam.coverage import Coverage

MAX_GAINS = 64  # remembered per node and pool between two reports


@dataclass(slots=True)
class _Move:
    """One node's slots of one pool. `left` counts on for ever; the rest since the node's last report."""

    left: int = 0
    net: int = 0
    gains: list[tuple[float, int]] = field(default_factory=list)


class Moves:
    def __init__(self) -> None:
        self._of: dict[str, dict[str, _Move]] = {}
        self._unreported: set[str] = set()

    def note(self, old: Block | None, new: Block | None, coverage: Coverage, now: float) -> None:
        """A block changed."""
        present = old or new
        if present is None:
            return
        before, after = _slots_by_node(old), _slots_by_node(new)
        changed = [node for node in {*before, *after} if before.get(node) != after.get(node)]
        for pool, mask in coverage.of_page(present.page) if changed else ():
            for node in changed:
                had, has = before.get(node, 0) & mask, after.get(node, 0) & mask
                if had != has:
                    self._add(node, pool, (has & ~had).bit_count(), (had & ~has).bit_count(), now)

    def reported(self, node: str) -> None:
        """The node spoke: what moved before is in its report."""
        self._unreported.discard(node)
        for move in self._of.get(node, {}).values():
            move.net = 0
            move.gains.clear()

    def unreported(self) -> Iterable[str]:
        """Nodes whose leases changed since they spoke."""
        return self._unreported

    def net(self, node: str) -> dict[str, int]:
        """Per pool, slots won less slots lost since the node spoke."""
        return {pool: move.net for pool, move in self._of.get(node, {}).items() if move.net}

    def gained(self, node: str, pool: str, since: float) -> int:
        """Slots won since then, as far as the node has not spoken meanwhile."""
        move = self._of.get(node, {}).get(pool)
        return sum(count for at, count in move.gains if at >= since) if move else 0

    def left(self, node: str, pool: str) -> int:
        """Slots lost since this process looks on: only differences mean something."""
        move = self._of.get(node, {}).get(pool)
        return move.left if move else 0

    def _add(self, node: str, pool: str, won: int, lost: int, now: float) -> None:
        move = self._of.setdefault(node, {}).setdefault(pool, _Move())
        move.left += lost
        move.net += won - lost
        if won:
            move.gains.append((now, won))
            del move.gains[:-MAX_GAINS]
        self._unreported.add(node)


def _slots_by_node(block: Block | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for lease in block.leases if block else ():
        found[lease.node.name] = found.get(lease.node.name, 0) | lease.slots
    return found
