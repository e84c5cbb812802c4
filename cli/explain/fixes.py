"""How to cure a refusal: one line per reason, naming the field of the object that stands in the way."""

from __future__ import annotations

from ipam.errors import Refusal
from ipam.facts import PodFacts

_BY_BEGINNING: tuple[tuple[str, str], ...] = (
    ("it is disabled", "set spec.disable of SpiderIPPool {pool} to false, or name another pool"),
    ("it is being deleted", "name another pool"),
    ("it is of IPv", "name it in the list of its own family"),
    ("nodeName ", "add {node} to spec.nodeName of SpiderIPPool {pool}, or name a pool for that node"),
    ("nodeAffinity ", "label node {node}, change spec.nodeAffinity of SpiderIPPool {pool}, or name a pool for it"),
    ("namespaceName ", "add {namespace} to spec.namespaceName of SpiderIPPool {pool}, or use another pool"),
    ("namespaceAffinity ", "label namespace {namespace}, or change spec.namespaceAffinity of SpiderIPPool {pool}"),
    ("podAffinity ", "label the pod, or change spec.podAffinity of SpiderIPPool {pool}"),
    ("it belongs to ", "application pools serve their own application only: name another pool"),
    ("multusName ", "add the network to spec.multusName of SpiderIPPool {pool}, or name another pool"),
    ("it has a multusName", "name the pod's network by a Multus annotation, or use a pool without spec.multusName"),
    ("the pattern matches no", "correct the pattern, or create a pool that it matches"),
    ("no address of the master", "use a pool of the master's subnet, or switch match_master_subnet off"),
)


def fix_for(refusal: Refusal, pod: PodFacts) -> str:
    """The cure in words; "" if none is known."""
    for beginning, text in _BY_BEGINNING:
        if refusal.reason.startswith(beginning):
            return text.format(pool=refusal.pool, node=pod.node or "(none)", namespace=pod.namespace)
    return ""
