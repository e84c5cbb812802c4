"""What the lab asks of an API server, whichever it is: the embedded one (`apiserver`) or a real control plane (`realserver`)."""

import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from e2e.cluster.faults import FaultProxy
from e2e.lab.agents import Access
from e2e.lab.api import Api
from e2e.lab.cluster_model import Cluster
from e2e.lab.objects import Object

ServerName: TypeAlias = Literal["embedded", "real"]


class Server(Protocol):
    """Started and stopped once."""

    @property
    def url(self) -> str:
        """On the machine's loopback."""

    async def start(self) -> None:
        """Returns when objects of our kinds can be written. Raises ApiServerError, ClusterFailed."""

    async def stop(self) -> None:
        """May be called twice, and without a start."""

    def api(self, user_agent: str) -> Api:
        """The lab's own client, with all rights."""

    def proxy(self, listener: socket.socket) -> FaultProxy:
        """What the programs of one node talk to."""

    async def join(self, node: str, labels: Mapping[str, str], directory: Path) -> Access:
        """Makes the Node object, and says how the programs of that node log in; `directory` may hold files for it."""

    def machinery(self, cluster: Cluster) -> AbstractAsyncContextManager[object]:
        """What has to run beside the server so that pods are made and bound."""

    async def requests(self) -> list[Object]:
        """Requests so far, as the server counted them: verb, resource, subresource, userAgent, count; empty if it does not count."""
