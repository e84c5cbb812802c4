"""Finds allocations that nobody will ever DEL, and frees them (I7) without ever freeing one that is in use (I4).

*An allocation is valid until proven leaked.* Proof needs all of: its sandbox is gone from this node; its pod, by UID, is gone from the API or will
never run again; both were seen twice, `confirm_s` apart; and both are seen once more, the pod by a quorum read, right before the release.

So a force-deleted pod whose sandbox still answers keeps its address, a pod that is being retried keeps it, and an API server that does not answer
proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from adapters.clock import Clock
from adapters.kube.store import Store, StoreError
from adapters.sandboxes import Sandbox, Sandboxes
from crds.core import POD, Pod
from nodeagent.allocator import Allocator, Attachment, Key
from nodeagent.world import FINISHED, World

log = structlog.get_logger(__name__)

PASS_S = 10.0
MAX_RELEASES_PER_PASS = 64


class Reconciler:
    """Run `run()` as a task, once the world has synced."""

    def __init__(
        self,
        allocator: Allocator,
        world: World,
        store: Store,
        sandboxes: Sandboxes,
        clock: Clock,
        confirm_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self._allocator = allocator
        self._world = world
        self._store = store
        self._sandboxes = sandboxes
        self._clock = clock
        self._confirm_s = confirm_s
        self._on_change = on_change
        self._suspected: dict[Key, float] = {}
        self.released = 0
        self.observers: list[Callable[[Attachment], None]] = []

    @property
    def candidates(self) -> int:
        """Allocations that look leaked and are being confirmed."""
        return len(self._suspected)

    @property
    def oldest_s(self) -> float:
        """For how long the oldest candidate has looked leaked; 0 if there is none."""
        return self._clock.now() - min(self._suspected.values()) if self._suspected else 0.0

    async def run(self) -> None:
        while True:
            await self._clock.sleep(min(PASS_S, self._confirm_s))
            await self.reconcile()

    async def reconcile(self) -> int:
        """One pass; returns how many allocations were freed."""
        now = self._clock.now()
        looks_leaked = {
            attachment.key: attachment for attachment in self._allocator.all() if self._looks_leaked(attachment)
        }
        self._suspected = {key: self._suspected.get(key, now) for key in looks_leaked}
        due = [key for key, since in self._suspected.items() if now - since >= self._confirm_s]
        freed = 0
        for key in due[:MAX_RELEASES_PER_PASS]:
            if await self._is_proven(looks_leaked[key]):
                self._allocator.release(key)
                del self._suspected[key]
                freed += 1
                for observe in self.observers:
                    observe(looks_leaked[key])
                log.warning(
                    "leak_released",
                    container=key.container_id,
                    pod=f"{looks_leaked[key].namespace}/{looks_leaked[key].pod}",
                )
        if freed:
            self.released += freed
            self._on_change()
        return freed

    def _looks_leaked(self, attachment: Attachment) -> bool:
        pod = self._world.pods.get(attachment.pod, attachment.namespace)
        return _will_never_run(pod, attachment.pod_uid) and self._sandboxes.state(attachment.netns) is Sandbox.GONE

    async def _is_proven(self, attachment: Attachment) -> bool:
        """The last look, at the truth and not at copies of it."""
        try:
            pod = await self._store.get(POD, attachment.pod, attachment.namespace)
        except StoreError:
            return False
        unchanged = self._allocator.get(attachment.key) == attachment
        return (
            unchanged
            and _will_never_run(pod, attachment.pod_uid)
            and self._sandboxes.state(attachment.netns) is Sandbox.GONE
        )


def _will_never_run(pod: Pod | None, uid: str) -> bool:
    """A final phase is final whatever `restartPolicy` says: that is about containers. The kubelet starts no pod anew that is Succeeded or Failed
    (evicted, over its deadline, shut down with its node); one whose containers it restarts stays Running.
    """
    return pod is None or pod.uid != uid or pod.status.phase in FINISHED
