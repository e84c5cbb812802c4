"""python -m e2e.cluster.nodes.relay api PORT NAMESPACE... | egress SOCKET

api     inside each namespace, what is sent to 127.0.0.1:PORT or 10.96.0.1:443 goes to 127.0.0.1:PORT of the machine, where the
        API server listens: one kubeconfig is right everywhere, and pods in the node's network find the service address
egress  an HTTP CONNECT proxy on a unix socket, for the API server's way to kubelets; to be run in a namespace on their segment

It prints "ready" once it listens, and runs until it is killed. A process of its own: kubelets' watches must not share
the test's interpreter.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from e2e.cluster.nodes.settings import SERVICE_ADDRESS
from e2e.lab import netns

CHUNK = 1 << 16
CONNECT_TIMEOUT_S = 5.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def serve_api(port: int, namespaces: list[str]) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _joined((reader, writer), lambda: asyncio.open_connection("127.0.0.1", port))

    for name in namespaces:
        for host, number in (("127.0.0.1", port), (SERVICE_ADDRESS, 443)):
            await asyncio.start_server(handle, sock=netns.listen_in(name, host, number))


async def serve_egress(path: Path) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            words = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
            host, _, port = words[1].decode().rpartition(":")
            await _joined((reader, writer), lambda: _connected(writer, host.strip("[]"), int(port)))
        writer.close()

    path.unlink(missing_ok=True)
    await asyncio.start_unix_server(handle, path)


async def _connected(client: asyncio.StreamWriter, host: str, port: int) -> Streams:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            streams = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        client.write(f"HTTP/1.1 502 {type(error).__name__}\r\n\r\n".encode())
        raise OSError(str(error)) from error
    client.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    return streams


async def _joined(client: Streams, dial: Callable[[], Awaitable[Streams]]) -> None:
    """Copies both ways until either end is done, then ends both: neither side is left with half a connection."""
    try:
        server = await dial()
    except OSError:
        client[1].transport.abort()
        return
    copies = [asyncio.ensure_future(_copy(client[0], server[1])), asyncio.ensure_future(_copy(server[0], client[1]))]
    await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    for task in copies:
        task.cancel()
    for _, writer in (client, server):
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


async def _serve(arguments: list[str]) -> None:
    match arguments:
        case ["api", port, *namespaces]:
            await serve_api(int(port), namespaces)
        case ["egress", path]:
            await serve_egress(Path(path))
        case _:
            raise SystemExit(__doc__)
    print("ready", flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    socket.setdefaulttimeout(None)
    asyncio.run(_serve(sys.argv[1:]))
