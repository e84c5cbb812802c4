"""How a starting agent brings its memory in step with the API: which Node it is, whether its journal is of this boot, its blocks, its mailbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from adapters.journal import PutMeta
from adapters.kube.store import StoreError
from crds.core import NODE
from crds.nephila import IP_NODE
from ipam.blocks import NodeRef
from ipam.errors import ApiUnreachable
from ipam.fence import Fence
from nodeagent import lostjournal
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.config import AgentConfig
from nodeagent.heartbeats import RETRY_S
from nodeagent.mailbox import ACKNOWLEDGED, MAILBOX_UID, Identity, Mailbox, NodeReport
from nodeagent.ports import Ports

log = structlog.get_logger(__name__)

BOOT_ID, NODE_UID = "bootID", "nodeUID"
RESTARTED_ELSEWHERE = "boot-or-node-changed"  # stands in for a mark: every lease is re-taken before use


class Joining:
    """`meta`: what the journal says of the last run. `mailbox` is there from the first try on that has found the Node."""

    def __init__(
        self,
        config: AgentConfig,
        ports: Ports,
        meta: Mapping[str, str],
        keeper: BlockKeeper,
        report: Callable[[], NodeReport],
        on_fence: Callable[[Fence, Fence], None],
    ) -> None:
        self._node = config.node
        self._lease_s = config.lease.lease_s
        self._ports = ports
        self._meta = meta
        self._keeper = keeper
        self._report = report
        self._on_fence = on_fence
        self.mailbox: Mailbox | None = None
        self._uids = tuple(meta.get(NODE_UID, "").split())  # under which leases of this node may stand
        self._rebooted = False  # since the journal was lost
        self.on_reboot: Callable[[], None] = lambda: None  # what the leader took meanwhile is known by then

    async def join(self) -> Mailbox:
        """Returns once blocks were read and a heartbeat was acknowledged, a mark included. Tried until it works."""
        while True:
            try:
                return await self._try()
            except (ApiUnreachable, StoreError) as error:
                log.warning("agent_join_failed", error=str(error))
                await self._ports.clock.sleep(RETRY_S)

    async def _try(self) -> Mailbox:
        meta, journal = self._meta, self._ports.journal
        identity = await self._identify()
        formers = tuple(NodeRef(self._node, uid) for uid in self._uids if uid != identity.node_uid)
        self._keeper.me = NodeRef(self._node, identity.node_uid)
        if BOOT_ID not in meta:
            await self._do_without_journal(identity)
        is_another_boot = self._rebooted or meta.get(BOOT_ID, identity.boot_id) != identity.boot_id
        changed = is_another_boot or bool(formers)
        # Before the first lease is written under it: if this run never gets further, the next one must know under which UIDs to look.
        self._uids = (*(former.uid for former in formers), identity.node_uid)
        journal.commit([PutMeta(NODE_UID, " ".join(self._uids))])
        if is_another_boot:
            # A power cut on a disk that lies about `fsync` takes the journal's end. No sandbox outlived the boot, so all that is leased is free.
            self._keeper.discover(await lostjournal.leases(self._ports.store, self._keeper.me, *formers))
        mailbox = self.mailbox = self._mailbox(identity, formers, RESTARTED_ELSEWHERE if changed else "")
        if not changed:
            await self._keeper.reload()
        await mailbox.beat()
        if is_another_boot:
            self.on_reboot()  # before the journal is of this boot: a run that ends here must be followed by one that knows
        journal.commit([PutMeta(BOOT_ID, identity.boot_id), PutMeta(NODE_UID, identity.node_uid)])
        return mailbox

    async def _do_without_journal(self, identity: Identity) -> None:
        """A new node has no mailbox. One that lost its journal has, and what its pods may still use is shunned."""
        mailbox = await self._ports.store.get(IP_NODE, self._node)
        if mailbox is None:
            return
        # What an earlier try found out holds: by now the heartbeat may be the one which that try sent.
        self._rebooted = self._rebooted or not lostjournal.outlived(mailbox, identity.boot_id)
        me, journal = self._keeper.me, self._ports.journal
        if self._rebooted:
            self._keeper.restore(await lostjournal.leases(self._ports.store, me), ())
        else:
            self._keeper.shunned |= await lostjournal.shun(self._ports.store, journal, me, identity.boot_id)

    async def _identify(self) -> Identity:
        node = await self._ports.store.get(NODE, self._node)
        if node is None:
            raise ApiUnreachable(
                f"Node {self._node} does not exist yet", hint="is `node` in the agent's configuration right?"
            )
        return Identity(self._node, node.uid, self._ports.boot_id)

    def _mailbox(self, identity: Identity, formers: Sequence[NodeRef], mark: str) -> Mailbox:
        same_boot = self._meta.get(BOOT_ID) == identity.boot_id
        fence = Fence(
            lease_s=self._lease_s,
            acknowledged_at=float(self._meta.get(ACKNOWLEDGED, "-inf")) if same_boot else float("-inf"),
            mailbox_uid=self._meta.get(MAILBOX_UID, ""),
            mark=mark,
        )
        mailbox = Mailbox(
            self._ports.store,
            self._ports.journal,
            self._ports.clock,
            identity,
            fence,
            self._report,
            lambda: self._keeper.retake_all(formers),
        )
        mailbox.observers.append(self._on_fence)
        return mailbox
