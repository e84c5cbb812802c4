"""Planted bugs: what each breaks must be caught by some seed, or the checkers and worlds are too weak (reliability notes, section 6).

Each is a small patch of the production code, made at run time in a process of its own. Two of the notes' bugs are not planted as they are worded:

- *Skip fsync* as worded costs something only if power fails in the seconds between a first claim of a page and the kernel's own write-back, and
  nothing of that page is wanted on the node again, and since an agent looks for its leases after a reboot, it costs nothing at all. It is planted
  together with the lack of that look, and hunted where power fails at every effect boundary (`BY_POWER_LOSS`); `late_commit` is the stronger bug
  that kill -9 shows too.
- *Single observation* in the leak reconciler harms nobody here: a simulated runtime's word that a sandbox is gone is always true, and no address of
  a sandbox that is gone is in use. The second and last look are there for a real runtime's errors. So `single_observation` is planted where silence
  is the evidence, in the leader, and `half_a_proof` takes the sandbox out of the reconciler's proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import nodeagent.world
from adapters.journal import Write
from adapters.journal.memory import MemoryDisk, MemoryJournal
from adapters.kube.memory import MemoryStore
from adapters.kube.store import Outcome, Unknown
from adapters.sandboxes import ListedSandboxes
from crds import convert
from crds.spiderpool import SpiderIPPool
from ipam import lease, reclaim
from ipam.blocks import Block, NodeRef
from ipam.overlaps import arbitrate
from ipam.pools import Pool
from ipam.ranges import RangeSet
from ipam.slots import SlotId
from ipam.stock import State, Stock
from nodeagent.adding import Adding
from nodeagent.allocator import Allocator, Attachment
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.leaseview import Seen
from nodeagent.needs import Needs
from nodeagent.reconcile import Reconciler
from nodeagent.request import CniRequest
from nodeagent.spool import Spool
from nodeagent.verbs import Verbs

Anything = Any  # patched signatures are those of the originals; what passes through is theirs


def _patch(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def drop_cas() -> None:
    """Blocks are written whatever stands there by now."""
    original = MemoryStore.patch

    async def patch(self: MemoryStore, kind: Anything, name: str, changes: Anything, **options: Anything) -> Anything:
        if kind.kind == "IPBlock":
            options["resource_version"] = ""
        return await original(self, kind, name, changes, **options)

    _patch(MemoryStore, "patch", patch)


def resume_on_read() -> None:
    """A fence mark is answered after reading that the leases still say mine."""

    async def retake_all(self: BlockKeeper, _formers: Sequence[NodeRef]) -> None:
        await self.reload()

    _patch(BlockKeeper, "retake_all", retake_all)


def late_commit() -> None:
    """Commits reach the file only with the next one: kill -9 takes the last."""
    held: dict[MemoryDisk, tuple[Write, ...]] = {}
    original = MemoryDisk.append

    def append(self: MemoryDisk, writes: tuple[Write, ...]) -> None:
        before = held.get(self)
        held[self] = writes
        if before is not None:
            original(self, before)

    _patch(MemoryDisk, "append", append)
    skip_fsync()


def skip_fsync() -> None:
    """No commit is forced to the disk: a power loss takes what the kernel has not written back by itself. Nor does the next boot look for leases that
    the journal does not know, which alone makes the loss harmless.
    """

    async def sync(self: MemoryJournal) -> None:
        return None

    def discover(self: BlockKeeper, records: object) -> None:
        return None

    _patch(MemoryJournal, "sync", sync)
    _patch(BlockKeeper, "discover", discover)


def ignore_generation_on_del() -> None:
    """DEL frees what the pod holds, whichever container it is about."""
    original = Verbs.delete

    def delete(self: Verbs, request: CniRequest) -> bytes:
        present = self._allocator.adoptable(request.conf.name, request.ifname, request.pod_uid)
        if present is not None:
            self._allocator.release(present.key)
        return original(self, request)

    _patch(Verbs, "delete", delete)


def no_cooldown() -> None:
    """A released address is free at once."""
    original = Stock.release

    def release(self: Stock, slot: SlotId, now: float, _cooldown_s: float) -> None:
        original(self, slot, now, 0.0)

    _patch(Stock, "release", release)


def stale_cache_reclaim() -> None:
    """The leader takes slots by what it once saw, without looking at the mailbox or at epochs again."""
    _patch(reclaim, "holds", lambda _state, _mailbox: True)
    original = reclaim.moved
    _patch(reclaim, "moved", lambda state, box: not isinstance(state, reclaim.Marked) and original(state, box))

    def take(state: reclaim.Marked, block: Block, slots: int, term: int) -> Block:
        for held in block.leases:
            if (block.page, held.node.uid) in state.leases:
                block = lease.reclaim(block, held, slots, term)
        return block

    _patch(reclaim, "take", take)


def single_observation() -> None:
    """One look at a heartbeat is enough to call a node silent, and the mark needs no waiting time."""
    _patch(reclaim.Rules, "wait_s", property(lambda _self: 0.0))


def half_dual_stack() -> None:
    """One family is better than none."""
    original = Adding._pick

    def pick(self: Adding, *arguments: Anything) -> Anything:
        picks, short = original(self, *arguments)
        return picks, [] if picks else short

    _patch(Adding, "_pick", pick)


def reply_before_journal() -> None:
    """The answer leaves first, the commit follows."""
    original = Allocator.grant

    def grant(self: Allocator, wanted: Attachment, picks: Sequence[Anything]) -> Attachment:
        journal, loop = self._journal, asyncio.get_running_loop()

        class Later:
            def commit(self, writes: Sequence[Write]) -> None:
                loop.call_later(0.02, journal.commit, writes)

        self._journal = Later()  # type: ignore[assignment]
        try:
            return original(self, wanted, picks)
        finally:
            self._journal = journal

    _patch(Allocator, "grant", grant)


def lose_bookmark() -> None:
    """A watch that was cut goes on from now, not from where it was."""
    original = MemoryStore.watch

    def watch(self: MemoryStore, kind: Anything, **options: Anything) -> Anything:
        options["resource_version"] = str(self.cluster.version)
        return original(self, kind, **options)

    _patch(MemoryStore, "watch", watch)


def timeout_as_failure() -> None:
    """A give-back whose outcome is unknown counts as not done: the slots are free again here."""
    original = BlockKeeper.finish_leaving

    async def finish_leaving(self: BlockKeeper, slots: Mapping[SlotId, float]) -> int:
        before = self.counters.attempts
        done = await original(self, slots)
        if self.counters.attempts > before + 1 or done < len(slots):
            _free_again(self._stock, slots)
        return done

    async def write(self: BlockKeeper, seen: Seen, wanted: Block) -> Seen | None:
        outcome = await original_write(self, seen, wanted)
        if outcome is None:
            leaving = {item.slot for item in self._stock if item.state is State.LEAVING}
            _free_again(self._stock, leaving)
        return outcome

    original_write = BlockKeeper._write
    _patch(BlockKeeper, "_write", write)
    _patch(BlockKeeper, "finish_leaving", finish_leaving)


def _free_again(stock: Stock, slots: Iterable[SlotId]) -> None:
    for slot in sorted(slots):
        held = stock.get(slot)
        if held is not None and held.state is State.LEAVING:
            stock._move(held, State.UNPROVEN)
            stock._settle(held, 0.0)


def timeout_as_success() -> None:
    """A write whose outcome is unknown counts as done."""
    original = BlockKeeper._write

    async def write(self: BlockKeeper, seen: Seen, wanted: Block) -> Seen | None:
        store = self._blocks._store

        class Hopeful:
            unknown = False

            def __getattr__(self, verb: str) -> Anything:
                async def call(*arguments: Anything, **options: Anything) -> Outcome[Anything]:
                    outcome: Outcome[Anything] = await getattr(store, verb)(*arguments, **options)
                    Hopeful.unknown = isinstance(outcome, Unknown)
                    return outcome

                return call

        self._blocks._store = Hopeful()
        try:
            outcome = await original(self, seen, wanted)
        finally:
            self._blocks._store = store
        return Seen(wanted, seen.resource_version) if Hopeful.unknown else outcome

    _patch(BlockKeeper, "_write", write)


def leader_without_fence() -> None:
    """The leader takes the slots of a silent node by belief: no mark, no second wait."""
    from leader.controllers.reclaim import Reclaim

    async def mark(self: Reclaim, _name: str, state: reclaim.Remembered) -> reclaim.State:
        return reclaim.Marked(state.uid, state.beat, "", state.leases, float("-inf"))

    _patch(Reclaim, "_mark", mark)
    _patch(reclaim, "holds", lambda _state, _mailbox: True)
    _patch(reclaim.Rules, "wait_s", property(lambda self: self.lease_s / 2))


def off_by_one_at_range_end() -> None:
    """The address behind a range's last one is used too."""
    from ipam.overlaps import arbitrate as original

    def arbitrate(*arguments: Anything) -> dict[str, RangeSet]:
        return {
            name: RangeSet.of(found.family, [(first, last + 1) for first, last in found.spans])
            for name, found in original(*arguments).items()
        }

    _patch(nodeagent.world, "arbitrate", arbitrate)


def forget_excluded() -> None:
    """excludeIPs is read and not used."""
    original = convert.pool

    def pool(stored: SpiderIPPool) -> Pool:
        found = original(stored)
        return replace(found, exclude=RangeSet.of(found.family, []))

    _patch(convert, "pool", pool)


def spool_replay_twice() -> None:
    """A spooled DEL is not removed after its replay."""
    original = Spool._replay_one

    async def replay_one(self: Spool, path: Anything) -> None:
        content = path.read_bytes()
        await original(self, path)
        path.directory.files[path.name + ".del"] = content  # under another name, for the next pass

    _patch(Spool, "_replay_one", replay_one)


def believe_the_gc_list() -> None:
    """GC frees whatever the runtime does not list, also under a sandbox that lives."""
    original = Verbs.collect

    def collect(self: Verbs, request: CniRequest) -> bytes:
        self._sandboxes = ListedSandboxes()
        return original(self, request)

    _patch(Verbs, "collect", collect)


def half_a_proof() -> None:
    """An allocation counts as leaked once its pod is gone, twice and once more; its sandbox is not asked about."""
    original = Reconciler.__init__

    def init(self: Reconciler, *arguments: Anything, **options: Anything) -> None:
        original(self, *arguments, **options)
        self._sandboxes = ListedSandboxes()

    _patch(Reconciler, "__init__", init)


def forget_reserved() -> None:
    """Agents do not withhold what SpiderReservedIPs name."""
    _patch(nodeagent.world, "arbitrate", lambda catalog, _reserved: arbitrate(catalog, {}))


def warm_where_barred() -> None:
    """A node keeps free addresses of a pool whose affinity was moved to other nodes."""
    _patch(Needs, "is_barred", lambda _self, _pool: False)


MUTANTS: Mapping[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        drop_cas,
        resume_on_read,
        skip_fsync,
        late_commit,
        ignore_generation_on_del,
        no_cooldown,
        stale_cache_reclaim,
        single_observation,
        half_dual_stack,
        reply_before_journal,
        lose_bookmark,
        timeout_as_failure,
        timeout_as_success,
        leader_without_fence,
        off_by_one_at_range_end,
        forget_excluded,
        spool_replay_twice,
        believe_the_gc_list,
        half_a_proof,
        forget_reserved,
        warm_where_barred,
    )
}
BY_POWER_LOSS = frozenset({"skip-fsync"})
"""Hunted at the boundaries of one short life (`sim.crashpoints`), not by seeds."""


def plant(name: str) -> None:
    """Patch the production code of this process; there is no way back."""
    MUTANTS[name]()
