"""Applications of controllers that Kubernetes does not ship (OpenKruise, Argo and the like), as their pods tell of them.

Nobody can watch kinds that are not known beforehand, so such an application is seen by its pods: one that asks for a SpiderSubnet, and whose
controller is of a kind that nobody here knows, asks for its controller's pool. The pool has the fixed number of addresses that the annotation states;
it is neither scaled nor deleted by itself, since a missing pod says nothing about its controller.
"""

from __future__ import annotations

from datetime import UTC, datetime

from crds.convert import as_owner, owner_references
from ipam.application_pools import wants_of
from ipam.errors import NephilaError
from ipam.facts import Features
from ipam.owners import TopOwner, top_owner
from leader.asking import AppKey, Asking, key_of
from leader.views import PodView

FINISHED = ("Succeeded", "Failed")
_NEVER = datetime.min.replace(tzinfo=UTC)

PodKey = tuple[str, str]


class Foreign:
    """What the living pods of each such application ask for; the youngest pod speaks for all."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._by_app: dict[AppKey, dict[PodKey, tuple[datetime, str, Asking]]] = {}

    def changed(self, old: PodView | None, new: PodView | None) -> TopOwner | None:
        """The application that the pod belongs to, if it is such a one, new or old."""
        former, present = owner_of(old), owner_of(new)
        if old is not None and former is not None:
            self._forget(former, old)
        if new is not None and present is not None and new.status.phase not in FINISHED:
            self._by_app.setdefault(key_of(present), {})[new.namespace, new.name] = (
                new.metadata.creation_timestamp or _NEVER,
                new.name,
                self._asking(new, present),
            )
        return present or former

    def asking(self, key: AppKey) -> Asking | None:
        pods = self._by_app.get(key)
        return max(pods.values(), key=lambda item: item[:2])[2] if pods else None

    def _asking(self, pod: PodView, owner: TopOwner) -> Asking:
        try:
            return Asking(owner, 0, wants_of(owner, pod.notes, self._features))
        except NephilaError as error:
            return Asking(owner, 0, (), error)

    def _forget(self, owner: TopOwner, pod: PodView) -> None:
        key = key_of(owner)
        pods = self._by_app.get(key, {})
        pods.pop((pod.namespace, pod.name), None)
        if not pods:
            self._by_app.pop(key, None)


def owner_of(pod: PodView | None) -> TopOwner | None:
    """The pod's controller, if nobody here knows its kind and the pod asks for a SpiderSubnet."""
    if pod is None or not pod.notes or pod.spec.host_network:
        return None
    owner = top_owner(as_owner(pod), owner_references(pod), {})
    return owner if isinstance(owner, TopOwner) and owner.is_third_party else None
