"""`nephila explain`, for people."""

from __future__ import annotations

from collections.abc import Sequence

from cli.explain.reasoner import Candidate, Reasoning
from cli.explain.sources import NOT_ASKED
from cli.output import Record
from cli.words import number_text, some

SHOWN_REFUSALS = 20
SHOWN_GROUPS = 10


class Explanation(Record):
    """One pod. `served`: every interface could be served, on some node if the pod is not bound."""

    pod: str
    node: str
    features: str
    interfaces: tuple[Reasoning, ...]
    served: bool


def explain_text(explanation: Explanation) -> str:
    """The steps of the selection, in order, and the verdict of each interface."""
    where = f" on {explanation.node}" if explanation.node else " (not bound to a node)"
    parts = [f"pod {explanation.pod}{where}\n  configuration: {explanation.features}\n"]
    for interface in dict.fromkeys(item.interface for item in explanation.interfaces):
        groups = [item for item in explanation.interfaces if item.interface == interface]
        parts.append("\n".join(["", interface, *_sources(groups[0]), ""]))
        parts += [_group(item, bound=bool(explanation.node)) for item in groups[:SHOWN_GROUPS]]
        if len(groups) > SHOWN_GROUPS:
            parts.append(f"  and {len(groups) - SHOWN_GROUPS} more groups of nodes: --node NAME, -o json\n")
    return "".join(parts)


def _sources(item: Reasoning) -> list[str]:
    """Which source speaks depends on the pod alone, not on the node."""
    lines = [f"  has {text}" for text in item.present]
    lines.append("  sources, first that speaks decides:")
    for number, source in enumerate(item.sources, 1):
        if source.verdict != NOT_ASKED:
            lines.append(f"    {number}. {source.source}: {source.verdict} ({source.why})")
    return lines


def _group(item: Reasoning, *, bound: bool) -> str:
    """What holds on one group of nodes."""
    lines = []
    if item.nodes and not bound:
        lines.append(
            f"  on {item.nodes[0] if len(item.nodes) == 1 else f'{len(item.nodes)} nodes ({some(item.nodes, 3)})'}:"
        )
    if item.candidates:
        lines.append("  pools, in order of trying:")
        lines += _candidates(item.candidates)
    if item.refused:
        lines.append("  pools refused:")
        for refused in item.refused[:SHOWN_REFUSALS]:
            lines.append(f"    - {refused.pool}: {refused.reason}")
            if refused.fix:
                lines.append(f"      fix: {refused.fix}")
        if len(item.refused) > SHOWN_REFUSALS:
            lines.append(f"    and {len(item.refused) - SHOWN_REFUSALS} more: -o json")
    lines += [f"  awaits: {text}, which the leader makes" for text in item.awaited]
    lines += [f"  note: {text}" for text in item.notes]
    lines += _verdict(item)
    return "\n".join(lines) + "\n"


def _candidates(candidates: Sequence[Candidate]) -> list[str]:
    lines: list[str] = []
    family = 0
    for number, item in enumerate(candidates, 1):
        if item.family != family:
            family = item.family
            lines.append(f"    IPv{family}")
        free = f"{number_text(item.free)} of {number_text(item.total)} addresses free"
        lines.append(f"    {number}. {item.pool}: {f'no address free: {item.why_none}' if item.why_none else free}")
        if item.routes:
            lines.append(f"       routes: {', '.join(item.routes)}")
        elif item.gateway:
            lines.append(f"       gateway {item.gateway}, no default route (cleangateway)")
    return lines


def _verdict(item: Reasoning) -> list[str]:
    if not item.served:
        return [f"  => NO ADDRESS: {item.cause}", *([f"     fix: {item.fix}"] if item.fix else [])]
    if item.present:
        return ["  => has its addresses already"]
    families = sorted({candidate.family for candidate in item.candidates})
    from_pools = [
        next(candidate.pool for candidate in item.candidates if candidate.family == family and candidate.free)
        for family in families
        if any(candidate.free for candidate in item.candidates if candidate.family == family)
    ]
    if item.awaited:
        return ["  => gets an address once the application pool exists"]
    return [f"  => gets an address from {' and '.join(from_pools) or 'its pin'}"]
