"""The form in which a program lists the Events it may record, so that the reference page, a test and the code cannot disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """One reason. `on`: the kinds it is recorded on; `type`: Normal or Warning; `meaning` and `cure` are for people."""

    reason: str
    type: str
    on: tuple[str, ...]
    meaning: str
    cure: str = "nothing to do"


def by_reason(notices: Iterable[Notice]) -> Mapping[str, Notice]:
    """Raises ValueError if a reason is listed twice."""
    found: dict[str, Notice] = {}
    for notice in notices:
        if notice.reason in found:
            raise ValueError(f"{notice.reason} is listed twice")
        found[notice.reason] = notice
    return found
