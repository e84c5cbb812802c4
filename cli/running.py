"""Runs one command against the cluster and turns errors into one line and an exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from cli.connection import Options, opened
from cli.failures import CliError, Exit
from cli.output import Format
from ipam.errors import NephilaError

Command = Callable[..., Awaitable[Exit]]


def run(options: Options, command: Command, arguments: dict[str, Any]) -> int:
    """The exit code. An `fmt` among the arguments is the text of `-o`."""
    try:
        if "fmt" in arguments:
            arguments["fmt"] = chosen_format(arguments["fmt"])
        return int(asyncio.run(_connected(options, command, arguments)))
    except CliError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return int(error.code)
    except NephilaError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(Exit.USAGE)
    except BrokenPipeError:
        # The reader of our output (head, less) is gone: nothing more can be said to anybody.
        sys.stdout = None
        return int(Exit.OK)


async def _connected(options: Options, command: Command, arguments: dict[str, Any]) -> Exit:
    async with opened(options) as session:
        return await command(session, **arguments)


def chosen_format(text: str) -> Format:
    """Raises CliError for a word that is no format."""
    try:
        return Format(text)
    except ValueError:
        raise CliError(f"-o {text}: no such format", "use wide, json, yaml or name") from None
