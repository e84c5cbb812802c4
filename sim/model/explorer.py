"""Breadth-first search over all states, with the shortest run to a double address if there is one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from sim.model.state import State, canonical, first
from sim.model.steps import Variant, steps


@dataclass(frozen=True)
class Found:
    """`run`: the steps to the first double; empty if there is none. `exhausted`: every reachable state was seen."""

    states: int
    exhausted: bool
    run: tuple[str, ...]


def explore(variant: Variant, limit: int = 5_000_000) -> Found:
    begin = canonical(first())
    parents: dict[State, tuple[State, str] | None] = {begin: None}
    waiting = deque([begin])
    while waiting:
        state = waiting.popleft()
        for label, raw in steps(state, variant):
            new = canonical(raw)
            if new in parents:
                continue
            parents[new] = (state, label)
            if new.is_double:
                return Found(len(parents), False, tuple(_run(parents, new)))
            if len(parents) >= limit:
                return Found(len(parents), False, ())
            waiting.append(new)
    return Found(len(parents), True, ())


def _run(parents: dict[State, tuple[State, str] | None], last: State) -> Iterator[str]:
    labels = []
    step = parents[last]
    while step is not None:
        before, label = step
        labels.append(label)
        step = parents[before]
    yield from reversed(labels)
