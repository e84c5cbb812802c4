"""Answers one AdmissionReview: what is missing (mutating), or why it may not be (validating). The judgement itself is in `ipam.admission`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import structlog

from adapters.kube.store import Store
from crds import convert, derived
from crds.admission import Request, Response, ReviewStatus, base64_text, json_patch
from crds.meta import UNSET, Kind, KubeObject
from crds.spiderpool import IP_POOL, RESERVED_IP, SUBNET, SpiderIPPool, SpiderReservedIP, SpiderSubnet
from ipam import admission
from ipam.addresses import Family
from ipam.errors import BadValue, Problem
from ipam.pools import Pool
from nodeagent.webhook.surroundings import Observer

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=KubeObject)
KINDS: dict[str, Kind[Any]] = {kind.kind: kind for kind in (IP_POOL, SUBNET, RESERVED_IP)}
UNPROCESSABLE = 422
Problems = tuple[Problem, ...]


class Reviewer:
    """`protect_in_use`: whether a pool or Subnet in use may not be deleted (else it stays, terminating, until it is empty)."""

    def __init__(self, store: Store, families: frozenset[Family], *, protect_in_use: bool) -> None:
        self._observer = Observer(store)
        self._families = families
        self._protect_in_use = protect_in_use

    async def mutate(self, request: Request) -> Response:
        """Never refuses. Raises StoreError."""
        kind, raw = KINDS.get(request.kind.kind), request.object_
        if kind is None or raw is None:
            return Response(uid=request.uid, allowed=True)
        try:
            new = kind.from_builtins(raw)
        except msgspec.ValidationError:
            return Response(uid=request.uid, allowed=True)  # the schema will say it better
        changes = await self._missing(new)
        if not changes:
            return Response(uid=request.uid, allowed=True)
        patch = msgspec.json.encode(json_patch(raw, changes)).decode()
        return Response(uid=request.uid, allowed=True, patch_type="JSONPatch", patch=base64_text(patch))

    async def validate(self, request: Request) -> Response:
        """Raises StoreError."""
        kind = KINDS.get(request.kind.kind)
        if kind is None:
            return Response(uid=request.uid, allowed=True)
        try:
            new, before = _read(kind, request.object_), _read(kind, request.old_object)
        except msgspec.ValidationError as error:
            return _refused(request, kind, (Problem("", str(error), "correct the object"),))
        problems = await self._problems(request.operation, new, before)
        return _refused(request, kind, problems) if problems else Response(uid=request.uid, allowed=True)

    # What is missing --------------------------------------------------------------------------------------------------------------------

    async def _missing(self, new: KubeObject) -> dict[str, Any]:
        match new:
            case SpiderIPPool():
                orphan = convert.OWNER_SUBNET not in new.labels
                return derived.of_pool(new, (await self._observer.look()).owner(new.spec.subnet) if orphan else None)
            case SpiderSubnet() if not new.deleting:
                return derived.of_subnet(new, is_used=True)
            case SpiderReservedIP():
                return derived.of_reserved(new)
        return {}

    # What is wrong ----------------------------------------------------------------------------------------------------------------------

    async def _problems(self, operation: str, new: KubeObject | None, before: KubeObject | None) -> Problems:
        if operation == "DELETE":
            return await self._deletion(before) if self._protect_in_use and before is not None else ()
        if new is None or new.deleting or _same(new, before):
            return ()
        try:
            match new:
                case SpiderIPPool():
                    return await self._pool(convert.pool(new), before if isinstance(before, SpiderIPPool) else None)
                case SpiderSubnet():
                    old = _readable(before, SpiderSubnet, convert.subnet)
                    return admission.judge_subnet(
                        convert.subnet(new), old, (await self._observer.look()).neighbours, self._families
                    )
                case SpiderReservedIP():
                    convert.reserved(new)
        except BadValue as error:
            return (Problem(error.field, error.problem, error.hint or "correct it"),)
        return ()

    async def _pool(self, new: Pool, before: SpiderIPPool | None) -> Problems:
        old = _readable(before, SpiderIPPool, convert.pool)
        uses = convert.allocated(before) if before is not None else {}
        return admission.judge_pool(new, old, (await self._observer.look()).neighbours, uses, self._families)

    async def _deletion(self, before: KubeObject) -> Problems:
        if isinstance(before, SpiderIPPool) and before.status is not UNSET and not before.deleting:
            uses = set(convert.allocated(before).values())
            return admission.judge_pool_deletion(before.name, uses, before.status.allocated_ip_count or 0)
        if isinstance(before, SpiderSubnet) and not before.deleting:
            return admission.judge_subnet_deletion(before.name, (await self._observer.look()).neighbours.pools)
        return ()


def _read(kind: Kind[T], raw: dict[str, Any] | None) -> T | None:
    return kind.from_builtins(raw) if raw is not None else None


def _readable(stored: KubeObject | None, wanted: type[T], read: Callable[[T], Pool]) -> Pool | None:
    """The object as it was; None if it was not there, or could not be understood."""
    try:
        return read(stored) if isinstance(stored, wanted) else None
    except BadValue:
        return None


def _same(new: KubeObject, before: KubeObject | None) -> bool:
    """Whether nothing is said anew of addresses: an object that broke a rule before may still get a label, or lose a finalizer."""
    if before is None:
        return False
    domains = (new.annotations.get(convert.L2_DOMAIN), before.annotations.get(convert.L2_DOMAIN))
    return domains[0] == domains[1] and getattr(new, "spec", None) == getattr(before, "spec", None)


def _refused(request: Request, kind: Kind[Any], problems: Problems) -> Response:
    message = f'{kind.kind} "{request.name}" is refused: ' + "; ".join(map(str, problems))
    log.info("review_refused", kind=kind.kind, name=request.name, operation=request.operation, problems=len(problems))
    return Response(
        uid=request.uid,
        allowed=False,
        status=ReviewStatus(code=UNPROCESSABLE, reason="Invalid", message=message[:8192]),
    )
