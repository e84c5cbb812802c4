"""What the CRDs' CEL rules enforce, in Python: the `validate` callback of the simulated API server (crds/nephila.py has the rules)."""

from __future__ import annotations

from typing import Any

from crds.blocks import block_from_wire
from crds.meta import UNSET, Kind, KubeObject
from crds.nephila import IPBlock, IPNode, LeaderLock
from ipam.errors import BadValue


def refusal(kind: Kind[Any], old: KubeObject | None, new: KubeObject) -> str | None:
    """The reason why the API server refuses this write, or None."""
    if isinstance(new, IPBlock):
        return _block(old if isinstance(old, IPBlock) else None, new)
    if isinstance(new, IPNode) and isinstance(old, IPNode):
        return _mailbox(old, new)
    if isinstance(new, LeaderLock) and isinstance(old, LeaderLock):
        return _lock(old, new)
    return None


def _block(old: IPBlock | None, new: IPBlock) -> str | None:
    try:
        block_from_wire(new)
    except BadValue as error:
        return str(error)
    if old is None or old.spec == new.spec:
        return None
    if new.spec.term < old.spec.term:
        return "spec.term: term must not decrease: a later leader has written this block"
    if new.spec.epoch <= old.spec.epoch:
        return "spec.epoch: epoch must grow at every change"
    if (old.spec.page, old.spec.domain) != (new.spec.page, new.spec.domain):
        return "spec.page: page is not changeable"
    for lease in new.spec.leases:
        if lease.epoch <= old.spec.epoch and lease not in old.spec.leases:
            return "spec.leases: a lease that is new or changed must carry a new epoch"
    return None


def _mailbox(old: IPNode, new: IPNode) -> str | None:
    before, after = old.spec.fence, new.spec.fence
    if before is not UNSET and after is not UNSET and after.term < before.term:
        return "spec.fence: the term of a fence mark must not decrease"
    return None


def _lock(old: LeaderLock, new: LeaderLock) -> str | None:
    before, after = old.spec, new.spec
    if after.term < before.term:
        return "spec.term: term must not decrease"
    if after.term != before.term + (after.holder != before.holder):
        return "spec.term: term must grow by one when the holder changes, and only then"
    if after != before and after.holder == before.holder and after.renew_count <= before.renew_count:
        return "spec.renewCount: renewCount must grow at each renewal"
    return None
