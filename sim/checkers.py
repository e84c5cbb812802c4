"""The invariants, by name, judged on the ground truth: the wire, the journals and the API server's objects.

Names are those of docs/architecture.md (I1–I9); `cooldown`, `dual-stack`, `answer` and `crash` are the finer ones of the reliability notes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapters.journal import DropAttachment, PutAttachment, Write
from crds.blocks import block_from_wire
from crds.core import NODE
from crds.meta import Kind, KubeObject
from crds.nephila import IPBlock
from ipam.addresses import Family
from ipam.blocks import Block, NodeRef
from ipam.errors import BadValue
from ipam.invariants import one_machine
from ipam.reclaim import Standing
from ipam.slots import SlotId
from sim import rules
from sim.edits import EDITS
from sim.plan import IDENTITY
from sim.wire import Sandbox

if TYPE_CHECKING:
    from sim.machine import Machine
    from sim.world import World

ADD_TIMEOUT_S = 20.0  # of the shim
FASTEST = 1.25  # of the machines' clocks: a cooldown measured on it is shorter in true time
ROUNDING_S = 1.1  # cooling that travels in a block is written in whole seconds or rounded


class Violation(Exception):
    def __init__(self, invariant: str, message: str, at: float) -> None:
        super().__init__(f"{invariant} at {at:.3f} s: {message}")
        self.invariant = invariant
        self.message = message
        self.at = at

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str, float]]:
        return Violation, (self.invariant, self.message, self.at)


@dataclass
class Released:
    at: float
    pod_uid: str


class Checker:
    """The first violation ends the run: `failed` gets it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.failed: asyncio.Future[Violation] = world.loop.create_future()
        self.journalled: dict[str, dict[tuple[str, int], SlotId]] = {}
        self._pods: dict[str, dict[tuple[str, int], str]] = {}
        self._released: dict[SlotId, Released] = {}
        self._kept: dict[tuple[str, Family], SlotId] = {}  # what each identity was last answered
        self._answers: dict[str, tuple[SlotId, ...]] = {}
        self.blocks: dict[str, Block] = {}
        self.taken: Counter[str] = Counter()  # how often a lease lost slots by force, by the standing of its node

    def fail(self, invariant: str, message: str) -> None:
        self._world.trace("VIOLATION", invariant=invariant, message=message)
        if not self.failed.done():
            self.failed.set_result(Violation(invariant, message, self._world.loop.time()))

    # Journal commits -----------------------------------------------------------------------------------------------------------------

    def committed(self, machine: Machine, writes: Sequence[Write]) -> None:
        put = {_slot(w.record.family, w.record.value) for w in writes if isinstance(w, PutAttachment)}
        dropped = set()
        for write in writes:
            if isinstance(write, DropAttachment):
                dropped.add(self._dropped(machine, write, put))
        known = set(self.journalled.get(machine.name, {}).values()) | dropped
        for write in writes:
            if isinstance(write, PutAttachment):
                slot = _slot(write.record.family, write.record.value)
                if slot not in known:
                    self._newly_granted(machine, write)
                self._granted(machine, write)
                self._is_unsuspected(slot, write.record.pod_uid, adopted=slot in known)

    def _dropped(self, machine: Machine, write: DropAttachment, put: set[SlotId]) -> SlotId | None:
        key = (write.container_id, write.family)
        slot = self.journalled.get(machine.name, {}).pop(key, None)
        pod_uid = self._pods.get(machine.name, {}).pop(key, "")
        if slot is None:
            return None
        if slot not in put and self._is_answered_for(slot, machine.name):
            self._released[slot] = Released(self._world.loop.time(), pod_uid)
        sandbox = self._world.kubelets[machine.name].sandboxes.get(write.container_id)
        if sandbox is not None and sandbox.live and not sandbox.delete_sent:
            self.fail("I5", f"{slot} of {sandbox} was freed while its sandbox lives and no DEL was sent")
        return slot

    def _newly_granted(self, machine: Machine, write: PutAttachment) -> None:
        """Whatever a node believes: at the moment of the grant the API server must hold its lease of the slot."""
        slot = _slot(write.record.family, write.record.value)
        block = self.blocks.get(slot.page.name)
        if block is None or not self._world.is_stored(block) or not self._is_leased_to(slot, machine.name):
            self.fail("I2", f"{slot} was granted on {machine.name}, which holds no lease of it")
        if self._world.plan.probe is not None:
            # A pinned address is probed inline, within its ADD; its pin's compare-and-swap may take a while after that.
            interval_s = self._world.plan.probe.verify_interval_s
            pinned = block is not None and bool(block.pinned & slot.bit)
            self._is_proven(machine, slot, max(interval_s, ADD_TIMEOUT_S) if pinned else interval_s)

    def _is_proven(self, machine: Machine, slot: SlotId, interval_s: float) -> None:
        """Where addresses are verified, this very process must have found this one silent, and not too long ago."""
        at, now = machine.proven.get(slot), machine.clock.now()
        if at is None or now - at > interval_s:
            age = "never" if at is None else f"{now - at:.1f} s ago"
            self.fail("I5", f"{slot} was granted on {machine.name}, whose last probe to find it silent was {age}")

    def _granted(self, machine: Machine, write: PutAttachment) -> None:
        record = write.record
        slot = _slot(record.family, record.value)
        table = self.journalled.setdefault(machine.name, {})
        for (container, _family), other in table.items():
            if other == slot and container != record.container_id:
                self.fail("I1", f"{slot} is journalled for {container} and {record.container_id} on {machine.name}")
        table[record.container_id, record.family] = slot
        self._pods.setdefault(machine.name, {})[record.container_id, record.family] = record.pod_uid
        self._world.trace("granted", node=machine.name, container=record.container_id, ip=str(slot))
        if not self._world.plan.may_be_issued(slot):
            self.fail("issued", f"{slot} is outside its pool's addresses, excluded, or the gateway")
        block = self.blocks.get(slot.page.name)
        pin = block.pin_at(slot.value - slot.page.base) if block is not None and self._world.is_stored(block) else None
        if pin is None:
            self._check_rest(slot, record.pod_uid)
        elif (pin.owner.namespace, pin.owner.name) != (record.namespace, record.pod):
            self.fail("I6", f"{slot} is pinned to {pin.owner.name} and was granted to {record.pod} on {machine.name}")
        self._keeps_address(slot, record.pod)

    def _is_unsuspected(self, slot: SlotId, pod_uid: str, *, adopted: bool) -> None:
        """The pod whose pinned address was taken by force may go on with it: the pin keeps it from everybody else."""
        block = self.blocks.get(slot.page.name)
        if block is None or not block.suspect & slot.bit or self._world.probes:
            return
        pin = block.pin_at(slot.value - slot.page.base)
        if not (adopted and pin is not None and pin.holder is not None and pin.holder.pod_uid == pod_uid):
            self.fail("I5", f"{slot} is suspect and was handed out without a probe")

    def _keeps_address(self, slot: SlotId, pod: str) -> None:
        """An identity whose address is still pinned to it gets that one and no other, unless its pools were edited."""
        before = self._kept.get((pod, slot.family))
        if before is None or before == slot or any(map(self._world.faults.has, EDITS)):
            return
        block = self.blocks.get(before.page.name)
        pin = (
            block.pin_at(before.value - before.page.base)
            if block is not None and self._world.is_stored(block)
            else None
        )
        if pin is not None and pin.owner.name == pod:
            self.fail("I6", f"{pod} was granted {slot}, and {before} is pinned to it")

    def _check_rest(self, slot: SlotId, pod_uid: str) -> None:
        released = self._released.pop(slot, None)
        if released is None or released.pod_uid == pod_uid or self._world.faults.has("clock-step"):
            return
        rested = self._world.loop.time() - released.at
        if rested < self._world.plan.lease.cooldown_floor_s / FASTEST - ROUNDING_S:
            self.fail("cooldown", f"{slot} was given out again after {rested:.2f} s")

    def killed(self, machine: Machine) -> None:
        """kill -9: what the journal file holds must cover every sandbox that lives (I3)."""
        kept = {
            (r.container_id, r.family): _slot(r.family, r.value) for r in machine.disk.tables().attachments.values()
        }
        for sandbox in self._world.kubelets[machine.name].sandboxes.values():
            for slot in sandbox.addresses:
                if sandbox.live and not sandbox.delete_sent and kept.get((sandbox.container_id, slot.family)) != slot:
                    self.fail("I3", f"after kill -9 the journal of {machine.name} lacks {slot} of {sandbox}")

    def reloaded(self, machine: Machine) -> None:
        """A power loss took commits back: believe the disk, and nothing about the rest of what was lost."""
        state = machine.disk.open()
        records = state.load().attachments
        state.close()
        name = machine.name
        for slot in self.journalled.get(name, {}).values():
            self._released.pop(slot, None)
        self._released = {slot: at for slot, at in self._released.items() if not self._is_leased_to(slot, name)}
        self.journalled[name] = {(r.container_id, r.family): _slot(r.family, r.value) for r in records}
        self._pods[name] = {(r.container_id, r.family): r.pod_uid for r in records}

    def _is_answered_for(self, slot: SlotId, node: str) -> bool:
        """Not after a forced reclaim: from then on the address rests by its suspect mark, whenever its former node wakes and hears of the DEL."""
        block = self.blocks.get(slot.page.name)
        return block is not None and (bool(block.pinned & slot.bit) or self._is_leased_to(slot, node))

    def _is_leased_to(self, slot: SlotId, node: str) -> bool:
        block = self.blocks.get(slot.page.name)
        return block is not None and any(lease.slots & slot.bit for lease in block.leases_named(node))

    # CNI answers ---------------------------------------------------------------------------------------------------------------------

    def replied(self, sandbox: Sandbox, addresses: tuple[SlotId, ...]) -> None:
        """The runtime got a successful ADD."""
        held = self.journalled.get(sandbox.node, {})
        for slot in addresses:
            if held.get((sandbox.container_id, int(slot.family))) != slot:
                self.fail("I3", f"{sandbox} was answered {slot}, which its node's journal does not hold")
        wanted = self._world.plan.families_of(sandbox.pod)
        present = {slot.family for slot in addresses}
        if len(addresses) != len(present) or not (
            present == wanted or self._world.edits.may_lack(sandbox.pod, present)
        ):
            self.fail("dual-stack", f"{sandbox} got {', '.join(map(str, addresses))}")
        self._kept |= {(sandbox.pod, slot.family): slot for slot in addresses if sandbox.pod.startswith(IDENTITY)}
        before = self._answers.setdefault(sandbox.container_id, addresses)
        if before != addresses:
            self.fail("answer", f"{sandbox} was answered {addresses}, and {before} before")

    def doubled(self, slot: SlotId, first: Sandbox, second: Sandbox) -> None:
        """Silence is not proof: what a force-deleted pod behind a partition holds can only be heard, and lost frames cannot."""
        if (slot, second.node) in self._world.wire.deceived:
            self._world.trace("doubled_unheard", slot=str(slot), first=first, second=second)
            return
        if one_machine(self.blocks.get(slot.page.name), slot, {first.pod_uid, second.pod_uid}):
            return
        self.fail("I4", f"{slot} is used by {first} and by {second}")

    def crashed(self, where: str, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.fail("crash", f"{where}: {type(error).__name__}: {error}")

    # API writes ----------------------------------------------------------------------------------------------------------------------

    def validate(self, kind: Kind[Any], old: KubeObject | None, new: KubeObject) -> str | None:
        """The API server's rules; a correct program runs into none but that on terms."""
        reason = rules.refusal(kind, old, new)
        if reason is not None:
            if "term" not in reason.split(":")[0]:
                self.fail("I1", f"the API server refused {kind.kind} {new.name}: {reason}")
            return reason
        if isinstance(new, IPBlock):
            self._block_written(new)
        return None

    def _block_written(self, new: IPBlock) -> None:
        try:
            block = block_from_wire(new)
        except BadValue as error:
            self.fail("I1", str(error))
            return
        before = self.blocks.get(block.page.name)
        self.blocks[block.page.name] = block
        if before is not None:
            self._count_taken(before, block)
        if self._world.tracing:
            leases = " ".join(f"{e.node}/{e.node_uid[-2:]}:{e.slots}@{e.epoch % 1000}" for e in new.spec.leases)
            self._world.trace(
                "block", name=new.name, epoch=new.spec.epoch % 1000, leases=leases, suspect=new.spec.suspect
            )

    def _count_taken(self, before: Block, after: Block) -> None:
        """Only the leader makes a slot suspect, when it takes it by force."""
        fresh = after.suspect & ~before.suspect
        for lease in before.leases if fresh else ():
            if slots := lease.slots & fresh:
                standing = self._standing(lease.node)
                self.taken[standing.value] += 1
                self._world.trace("taken", node=lease.node, slots=slots.bit_count(), standing=standing.value)

    def _standing(self, node: NodeRef) -> Standing:
        """What the API server says of it now."""
        entry = self._world.cluster.read(NODE, ("", node.name))
        if entry is None:
            return Standing.GONE
        if entry.seen_as(NODE).is_out_of_service:
            return Standing.OUT_OF_SERVICE
        return Standing.PRESENT if entry.object.uid == node.uid else Standing.REPLACED


def _slot(family: int, value: int) -> SlotId:
    return SlotId("", Family(family), value)
