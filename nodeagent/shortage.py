"""An ADD lacks addresses: which pools it waits for, and what it is told when the time is over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from ipam.errors import DeadlineExceeded, NephilaError, PoolExhausted
from ipam.ranges import RangeSet
from ipam.selection import Selection
from ipam.slots import SlotId
from nodeagent.lastresort import release_command

Short = Collection[tuple[str, ...]]
"""The candidates, in their order, of every family that has no address yet."""


def pools_to_await(short: Short, is_exhausted: Callable[[str], bool]) -> set[str]:
    """Of each list, the pools up to the first that may still have something anywhere."""
    pools: set[str] = set()
    for names in short:
        for name in names:
            pools.add(name)
            if not is_exhausted(name):
                break
    return pools


def refusal(
    selection: Selection,
    short: Short,
    is_exhausted: Callable[[str], bool],
    effective: Mapping[str, RangeSet],
    waited_s: float,
    passed_over: Callable[[str], Sequence[SlotId]],
) -> NephilaError:
    """`effective`: the addresses of each pool that may be handed out at all; `passed_over`: its free ones that nothing here can prove."""
    if selection.missing:
        listed = ", ".join(f"{pool.name} of SpiderSubnet {pool.subnet}" for pool in selection.missing)
        return DeadlineExceeded(
            f"application pool {listed} does not exist yet",
            hint="the leader makes it: see the Events of the SpiderSubnet and of the application; the kubelet tries again",
        )
    names = sorted({name for listed in short for name in listed})
    if any(not is_exhausted(name) for name in names):
        return DeadlineExceeded(
            f"no address of {', '.join(names)} arrived within {waited_s:.0f} s",
            hint="the kubelet tries again; see `nephila pools`",
        )
    sizes = "; ".join(f"{name}: {effective[name].size} addresses" for name in names if name in effective)
    refused = "; ".join(str(refusal) for refusal in selection.refused)
    return PoolExhausted(
        f"all addresses of {', '.join(names)} are used or held",
        hint="enlarge a pool, or see who holds them with `nephila pools`" + _how_to_absolve(names, passed_over),
        details="; ".join(part for part in (sizes, refused) if part),
    )


def _how_to_absolve(names: Sequence[str], passed_over: Callable[[str], Sequence[SlotId]]) -> str:
    """The operator's end of what a dead node left, where no probe can be made; "" if there is none of it."""
    left = [slot for name in names for slot in passed_over(name)]
    if not left:
        return ""
    return (
        f"; {len(left)} were taken by force from a dead node, and this node cannot probe them: once you know that nobody uses one, "
        f"`{release_command(min(left))}` frees it"
    )
