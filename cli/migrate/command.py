"""`nephila migrate from-spiderpool`: print the plan, or write it, one compare-and-swap per block. Repeating it is harmless."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from adapters.entropy import SystemEntropy
from adapters.kube.store import Conflict, Exists, Missing, Store, Stored, StoreError, Unknown
from cli.connection import Session
from cli.failures import CliError, Exit
from cli.migrate.planning import Plan, Planned, merged, plan
from cli.output import Format, machine
from cli.reading import answered, read_cluster
from cli.words import count
from crds.blocks import block_changes, block_from_wire, block_to_wire
from crds.core import STATEFUL_SET
from crds.nephila import IP_BLOCK
from ipam.blocks import Pin
from ipam.errors import BadValue
from ipam.lease import SEED_BITS, new_block
from ipam.slots import Page

ATTEMPTS = 5
SHOWN = 200


async def from_spiderpool(session: Session, fmt: Format, *, apply: bool) -> Exit:
    """Exit code 1 if something cannot be adopted, 4 if --apply was refused for it."""
    cluster = await read_cluster(session.store, time.time())
    sets = (await answered(STATEFUL_SET, session.store.list(STATEFUL_SET))).items
    planned = plan(cluster, sets)
    printable = machine(planned.plan, fmt) if fmt in (Format.JSON, Format.YAML) else plan_text(planned.plan)
    sys.stdout.write(printable)
    blocking = [item for item in planned.plan.refused if item.blocking]
    if not apply:
        return Exit.BAD_ANSWER if blocking else Exit.OK
    if blocking:
        raise CliError(
            f"nothing was written: {count(len(blocking), 'address', 'addresses')} in use cannot be adopted",
            "put them right, then plan again",
            code=Exit.REFUSED,
        )
    await write(session.store, planned, lambda: SystemEntropy().bits(SEED_BITS))
    print(f"written: {count(len(planned.plan.blocks), 'block')}", file=sys.stderr)
    return Exit.OK


async def write(store: Store, planned: Planned, seed: Callable[[], int]) -> None:
    """Every block of the plan. Raises CliError at the first that cannot be written; those before it stand, and a repeat goes on."""
    for page in sorted({*planned.pins, *planned.ended}):
        await _write_block(store, page, planned.pins.get(page, ()), planned.ended.get(page, ()), seed)


async def _write_block(
    store: Store, page: Page, pins: Sequence[Pin], ended: Sequence[Pin], seed: Callable[[], int]
) -> None:
    for _ in range(ATTEMPTS):
        try:
            stored = await store.get(IP_BLOCK, page.name)
            before = block_from_wire(stored) if stored else new_block(page, seed())
            after = merged(before, pins, ended)
        except StoreError as error:
            raise CliError(f"IPBlock {page.name} could not be read: {error}", "repeat", code=Exit.CLUSTER) from error
        except (BadValue, ValueError) as error:
            raise CliError(f"IPBlock {page.name}: {error}", "plan again", code=Exit.REFUSED) from error
        if after is before:
            return
        if stored is None:
            outcome = await store.create(IP_BLOCK, block_to_wire(after))
        else:
            outcome = await store.patch(
                IP_BLOCK, page.name, block_changes(after), resource_version=stored.resource_version
            )
        match outcome:
            case Stored():
                return
            case Conflict() | Exists() | Missing() | Unknown():
                continue  # look again: what stands there now decides
            case other:
                raise CliError(f"IPBlock {page.name} could not be written: {other}", "repeat", code=Exit.CLUSTER)
    raise CliError(f"IPBlock {page.name} is written by others all the time", "repeat", code=Exit.REFUSED)


def plan_text(made: Plan) -> str:
    """For people."""
    lines = [
        f"adopt {count(len(made.adopted), 'address', 'addresses')} in {count(len(made.blocks), 'block')}; "
        f"{made.present} known already, {len(made.dropped)} of gone pods become free, {len(made.refused)} refused"
    ]
    for item in made.adopted[:SHOWN]:
        where = f"on {item.node}" if item.running else "not running"
        lines.append(f"  adopt   {item.address}  {item.pool}  {item.pod} {item.interface} {where}, as {item.identity}")
    if len(made.adopted) > SHOWN:
        lines.append(f"  and {len(made.adopted) - SHOWN} more: -o json")
    lines += [f"  drop    {text}" for text in made.dropped[:SHOWN]]
    lines += [f"  end     {text}" for text in made.ended[:SHOWN]]
    for refused in made.refused:
        mark = "REFUSE " if refused.blocking else "leave  "
        lines.append(
            f"  {mark} {' '.join(filter(None, (refused.address, refused.pod)))}: {refused.reason} ({refused.fix})"
        )
    return "\n".join(lines) + "\n"
