"""The commands: read the cluster, make the view, print it, say how it ended. Everything they decide is in the pure modules they call."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cli import actions, fsck
from cli.cluster import Cluster
from cli.connection import Session
from cli.explain.collecting import Asked, explain_planned, explain_pod
from cli.explain.podfile import read_pod
from cli.explain.settings import Settings, from_cluster, from_file
from cli.failures import CliError, Exit
from cli.output import Column, Format, R, Record, machine, names, table
from cli.reading import answered, read_cluster
from cli.views import blocks, explain, nodes, pools, status, trace
from crds.core import STATEFUL_SET
from ipam.addresses import Address
from ipam.errors import BadValue
from ipam.slots import SlotId

AGENT_NAMESPACE = "kube-system"
POLL_S = 2.0


async def show_status(session: Session, fmt: Format) -> Exit:
    found = status.status_of(await _cluster(session))
    _emit(found, fmt, lambda: status.status_text(found, colour=_colour()))
    return Exit.OK


async def show_pools(session: Session, fmt: Format) -> Exit:
    _emit_rows(pools.KIND, pools.POOL_COLUMNS, pools.pool_rows(await _cluster(session)), fmt)
    return Exit.OK


async def show_nodes(session: Session, fmt: Format) -> Exit:
    _emit_rows(nodes.KIND, nodes.NODE_COLUMNS, nodes.node_rows(await _cluster(session)), fmt)
    return Exit.OK


async def show_blocks(session: Session, fmt: Format, pool: str, node: str) -> Exit:
    found = blocks.block_rows(await _cluster(session), pool=pool, node=node)
    _emit_rows(blocks.KIND, blocks.BLOCK_COLUMNS, found, fmt)
    return Exit.OK


async def show_conflicts(session: Session, fmt: Format) -> Exit:
    found = blocks.conflict_rows(await _cluster(session))
    if not found and fmt in (Format.TEXT, Format.WIDE):
        _write("no conflict: nobody else was seen to use an address of a pool\n")
    else:
        _emit_table(blocks.CONFLICT_COLUMNS, found, fmt)
    return Exit.OK


async def show_free(session: Session, fmt: Format, pool: str, limit: int) -> Exit:
    cluster = await _cluster(session)
    found = cluster.catalog.get(pool)
    if found is None:
        if error := cluster.pools.unreadable.get(pool):
            raise CliError(f"SpiderIPPool {pool} cannot be understood: {error}", code=Exit.BAD_ANSWER)
        raise CliError(f"SpiderIPPool {pool!r} does not exist", "see `nephila pools`", code=Exit.BAD_ANSWER)
    report = pools.free_report(cluster, found, limit)
    _emit(report, fmt, lambda: pools.free_text(report))
    return Exit.OK if report.free.count else Exit.BAD_ANSWER


async def trace_ip(session: Session, fmt: Format, ip: str) -> Exit:
    address = _address(ip)
    found = trace.trace_ip(await _cluster(session), address)
    _emit(found, fmt, lambda: "\n".join(map(trace.story_text, found)))
    return Exit.BAD_ANSWER if all(story.state == "unknown" for story in found) else Exit.OK


async def trace_pod(session: Session, fmt: Format, pod: str) -> Exit:
    namespace, name = _key(session, pod)
    cluster = await _cluster(session)
    found = trace.trace_pod(cluster, namespace, name)
    if not found:
        exists = (namespace, name) in cluster.pod_of_key
        what = f"pod {namespace}/{name} {'has no address of ours' if exists else 'does not exist'}"
        raise CliError(what, f"why: nephila explain pod {namespace}/{name}" if exists else "", code=Exit.BAD_ANSWER)
    _emit(found, fmt, lambda: "\n".join(map(trace.story_text, found)))
    return Exit.OK


async def trace_mac(session: Session, fmt: Format, mac: str) -> Exit:
    found = trace.trace_mac(await _cluster(session), mac)
    if not found:
        raise CliError(
            f"nobody is known with MAC {mac}",
            "the API shows MACs of pods with Multus' network-status and of strangers seen in conflicts only",
            code=Exit.BAD_ANSWER,
        )
    _emit(found, fmt, lambda: "\n".join(map(trace.mac_text, found)))
    return Exit.OK


async def explain_existing(
    session: Session, fmt: Format, pod: str, interface: str, node: str, config: str, netconf: str
) -> Exit:
    namespace, name = _key(session, pod)
    cluster, settings = await _cluster(session), await _settings(session, config)
    asked = Asked(interface, _file(netconf, "--netconf") if netconf else "", node)
    return _explained(await explain_pod(session.store, cluster, settings, namespace, name, asked), fmt)


async def explain_manifest(
    session: Session, fmt: Format, file: str, interface: str, node: str, config: str, netconf: str
) -> Exit:
    planned = read_pod(_file(file, "-f"), "standard input" if file == "-" else file, session.namespace)
    cluster, settings = await _cluster(session), await _settings(session, config)
    asked = Asked(interface, _file(netconf, "--netconf") if netconf else "", node)
    return _explained(await explain_planned(session.store, cluster, settings, planned, asked), fmt)


async def check(session: Session, fmt: Format, settle_s: float, *, quiet: bool) -> Exit:
    async def look() -> tuple[Cluster, tuple[fsck.Finding, ...]]:
        cluster = await _cluster(session)
        sets = (await answered(STATEFUL_SET, session.store.list(STATEFUL_SET))).items if quiet else None
        return cluster, fsck.check(cluster, sets)

    cluster, found = await look()
    if found and settle_s:
        await asyncio.sleep(settle_s)
        cluster, again = await look()
        found = fsck.lasting(found, again)
    report = fsck.report(cluster, found)
    _emit(report, fmt, lambda: fsck.report_text(report))
    return Exit.BAD_ANSWER if found else Exit.OK


async def fence(session: Session, node: str, wait_s: float) -> Exit:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            _write(await actions.fence(session.store, await _cluster(session), node) + "\n")
        except CliError as error:
            if error.code is not Exit.REFUSED or time.monotonic() + POLL_S > deadline:
                raise
            await asyncio.sleep(POLL_S)
        else:
            return Exit.OK


async def release(session: Session, ip: str, domain: str) -> Exit:
    address = _address(ip)
    slot = SlotId(domain, address.family, address.value)
    for line in await actions.release(session.store, await _cluster(session), slot):
        _write(line + "\n")
    return Exit.OK


def _explained(found: explain.Explanation, fmt: Format) -> Exit:
    _emit(found, fmt, lambda: explain.explain_text(found))
    return Exit.OK if found.served else Exit.BAD_ANSWER


async def _settings(session: Session, config: str) -> Settings:
    return from_file(Path(config), AGENT_NAMESPACE) if config else await from_cluster(session.store, AGENT_NAMESPACE)


async def _cluster(session: Session) -> Cluster:
    return await read_cluster(session.store, time.time())


def _key(session: Session, text: str) -> tuple[str, str]:
    """`NAMESPACE/NAME`, or a name in the session's namespace."""
    namespace, _, name = text.rpartition("/")
    if not name or "/" in namespace:
        raise CliError(f"{text!r} is not a pod", "write NAMESPACE/NAME")
    return namespace or session.namespace, name


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except BadValue as error:
        raise CliError(str(error)) from error


def _file(name: str, option: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{option} {name}: cannot be read: {error}", "give an existing text file") from error


def _emit(value: Record | Sequence[Record], fmt: Format, text: Callable[[], str]) -> None:
    _write(machine(value, fmt) if fmt in (Format.JSON, Format.YAML) else text())


def _emit_rows(kind: str, columns: Sequence[Column[R]], rows: Sequence[R], fmt: Format) -> None:
    if fmt is Format.NAME:
        _write(names(kind, [str(getattr(row, "name", "")) for row in rows]))
    elif not rows and fmt in (Format.TEXT, Format.WIDE):
        _write(f"none: no {kind.partition('.')[0]} exists\n")
    else:
        _emit_table(columns, rows, fmt)


def _emit_table(columns: Sequence[Column[R]], rows: Sequence[R], fmt: Format) -> None:
    _emit(rows, fmt, lambda: table(columns, rows, fmt, colour=_colour()))


def _write(text: str) -> None:
    sys.stdout.write(text)


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
