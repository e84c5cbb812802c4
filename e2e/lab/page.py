"""The leader's page on the host's loopback: whoever leads serves it inside its node's network, and each connection is carried there."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

from e2e.lab import leaders, netns
from e2e.lab.agents import PAGE_PORT
from e2e.lab.api import Api, ApiError

CONNECT_S = 3.0
CHUNK = 64 * 1024


@contextlib.asynccontextmanager
async def opened(api: Api, node_ns: Callable[[str], str]) -> AsyncIterator[str]:
    """Yields the page's address. A browser that is cut off by a change of leader connects anew, and finds the next one."""
    open_now: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            await _carry(api, node_ns, reader, writer)
        finally:
            open_now.discard(task)
            writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)


async def _carry(
    api: Api, node_ns: Callable[[str], str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with contextlib.suppress(OSError, ApiError, TimeoutError):
        leading = (await leaders.reign(api)).node
        if not leading:
            await asyncio.wait_for(reader.read(CHUNK), CONNECT_S)  # closing unread would reset the connection
            writer.write(
                b"HTTP/1.1 503 -\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nnobody leads yet: try again\n"
            )
            return
        peer = await asyncio.to_thread(netns.run_in, node_ns(leading), _connect)
        inner_reader, inner_writer = await asyncio.open_connection(sock=peer)
        both = [
            asyncio.create_task(_pump(reader, inner_writer)),
            asyncio.create_task(_pump(inner_reader, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            inner_writer.close()


def _connect() -> socket.socket:
    return socket.create_connection(("127.0.0.1", PAGE_PORT), CONNECT_S)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
