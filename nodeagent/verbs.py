"""The CNI verbs that wait for nobody: DEL, CHECK, GC, STATUS (specification 1.1.0), from a validated request to the answer. ADD is in `adding.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from adapters.sandboxes import Sandbox, Sandboxes
from ipam.errors import CheckFailed, NotReady, WireDown
from ipam.stock import Stock
from nodeagent.afterwards import Afterwards
from nodeagent.allocator import Allocator, Key
from nodeagent.request import CniRequest
from nodeagent.world import World

log = structlog.get_logger(__name__)

WhyCut: TypeAlias = Callable[[str], Awaitable[str]]
"""Why the interface of this name carries nothing, in words; "" if it does, or if that cannot be told."""


async def no_wire(_interface: str) -> str:
    """`WhyCut` where nobody can look."""
    return ""


class Verbs:
    """`on_change`: attachments changed; called once the reply has left. `on_unknown`: a DEL of this pod's interface found none."""

    def __init__(
        self,
        world: World,
        allocator: Allocator,
        stock: Stock,
        sandboxes: Sandboxes,
        why_not_ready: Callable[[], str],
        on_change: Callable[[], None],
        afterwards: Afterwards,
        why_cut: WhyCut,
        on_unknown: Callable[[str, str], None],
    ) -> None:
        self._world = world
        self._allocator = allocator
        self._stock = stock
        self._sandboxes = sandboxes
        self._why_not_ready = why_not_ready
        self._on_change = on_change
        self._afterwards = afterwards
        self._why_cut = why_cut
        self._on_unknown = on_unknown

    def delete(self, request: CniRequest) -> bytes:
        """Free what this container's interface holds. Idempotent; needs neither the API server nor the pod."""
        released = self._allocator.release(Key(request.conf.name, request.container_id, request.ifname))
        if released is not None:
            self._afterwards(self._on_change)
        else:
            self._on_unknown(request.pod_uid, request.ifname)
        return b""

    def check(self, request: CniRequest) -> bytes:
        """The reservation is ours, complete, and what the previous result says. Raises CheckFailed."""
        key = Key(request.conf.name, request.container_id, request.ifname)
        attachment = self._allocator.get(key)
        if attachment is None:
            raise CheckFailed(
                f"container {key.container_id} has no address on {key.ifname} of network {key.network}",
                hint="delete the sandbox",
            )
        ours = {str(grant.slot.address) for grant in attachment.grants}
        previous = (request.conf.prev_result or {}).get("ips")
        shown = {str(ip.get("address", "")).split("/")[0] for ip in previous or [] if isinstance(ip, dict)}
        if previous is not None and not ours <= shown:
            raise CheckFailed(
                f"addresses {', '.join(sorted(ours - shown))} are reserved but not in prevResult",
                hint="delete the sandbox",
            )
        for grant in attachment.grants:
            if grant.slot not in self._stock:
                raise CheckFailed(
                    f"{grant.slot} left this node's leases", hint="see `nephila trace ip`; delete the pod"
                )
        return b""

    def collect(self, request: CniRequest) -> bytes:
        """GC: free attachments of this very network that the runtime does not list, if their sandbox is really gone.

        No list at all is no information, and a list alone is no proof: a runtime that has just started may have forgotten sandboxes that live, and
        two runtimes may share a network (containernetworking/cni#1086). So a namespace that still exists, or cannot be seen from here, protects
        its attachment.
        """
        valid = request.conf.valid_attachments
        if valid is None:
            return b""
        listed = {(item.container_id, item.ifname) for item in valid}
        for attachment in self._allocator.all():
            key = attachment.key
            if key.network != request.conf.name or (key.container_id, key.ifname) in listed:
                continue
            sandbox = self._sandboxes.state(attachment.netns)
            if sandbox is not Sandbox.GONE:
                log.warning("gc_spared", container=key.container_id, sandbox=sandbox.value)
                continue
            self._allocator.release(key)
            log.info("gc_released", container=key.container_id, namespace=attachment.namespace, pod=attachment.pod)
        self._afterwards(self._on_change)
        return b""

    async def status(self, request: CniRequest) -> bytes:
        """Can an ADD be served now? Raises WireDown (code 51) if the network's `master` carries nothing, else NotReady (code 50)."""
        master = request.conf.master
        if master and (why := await self._why_cut(master)):
            raise WireDown(
                f"interface {master} of network {request.conf.name!r} carries nothing: {why}",
                hint="bring it up, or correct `master` in the network configuration; running pods are cut off meanwhile",
            )
        if not self._world.has_synced:
            raise NotReady(
                "the agent has not read the cluster's pools yet", hint="is the API server reachable from this node?"
            )
        if closed := self._why_not_ready():
            raise NotReady(f"this node cannot hand out new addresses: {closed}", hint="see `nephila nodes`")
        return b""
