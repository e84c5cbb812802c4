"""`python -m e2e.apiserver --port N [--kubeconfig PATH] [--crds DIR]`: serve until interrupted."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from e2e.apiserver.server import EmbeddedServer, Options


async def serve(arguments: argparse.Namespace) -> None:
    server = EmbeddedServer(Options(history_limit=arguments.history))
    await server.start(arguments.host, arguments.port)
    if arguments.crds is not None:
        server.install_crds(arguments.crds)
    if arguments.kubeconfig is not None:
        arguments.kubeconfig.write_text(server.kubeconfig())
    print(server.url, flush=True)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.apiserver", description="An API server with its state in memory."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one; the URL is printed")
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig here")
    parser.add_argument("--crds", type=Path, help="create the CRDs in this folder's YAML files")
    parser.add_argument("--history", type=int, default=20_000, help="changes remembered per resource")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
