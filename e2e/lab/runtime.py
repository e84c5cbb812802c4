"""What libcni and containerd do with a network configuration, for one node: execute the plugins of a list, chain their results.

Source: the CNI specification 1.0, sections 2 (variables), 4 (execution of a list) and 5 (results and errors).
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.lab.objects import Object

EXEC_TIMEOUT_S = 60.0


class CniFailure(Exception):
    """A plugin failed. `code` is 0 when it printed no error object, which no plugin may do."""

    def __init__(self, plugin: str, code: int, message: str, details: str) -> None:
        super().__init__(f"{plugin}: code {code}: {message}" + (f" ({details})" if details else ""))
        self.plugin = plugin
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The identity of one attempt to start a pod: a retry makes a new one."""

    container_id: str
    netns: Path
    namespace: str
    pod: str
    uid: str

    def args(self) -> str:
        """CNI_ARGS as containerd 1.6–2.x sets it."""
        return (
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.pod};"
            f"K8S_POD_INFRA_CONTAINER_ID={self.container_id};K8S_POD_UID={self.uid}"
        )


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of a pod: a conflist and the interface's name."""

    conflist: Object
    interface: str


@dataclass(frozen=True, slots=True)
class Executor:
    """Runs plugins inside a node's network namespace. `times` is where the stopwatch writes."""

    node_netns: Path
    plugin_path: Path
    times: Path

    async def add(self, sandbox: Sandbox, attachment: Attachment) -> tuple[Object, float]:
        """ADD for each plugin in order. Returns the last result and the seconds it all took. Raises CniFailure."""
        result: Object | None = None
        begun = time.monotonic()
        for plugin in attachment.conflist["plugins"]:
            output = await self._execute(
                "ADD", plugin_config(attachment.conflist, plugin, result), sandbox, attachment.interface
            )
            result = parse_result(plugin["type"], output)
        return result or {}, time.monotonic() - begun

    async def delete(self, sandbox: Sandbox, attachment: Attachment, result: Object | None) -> None:
        """DEL in reverse order with the cached result, which is None after an ADD that failed. Raises CniFailure."""
        for plugin in reversed(attachment.conflist["plugins"]):
            config = plugin_config(attachment.conflist, plugin, result)
            await self._execute("DEL", config, sandbox, attachment.interface)

    async def check(self, sandbox: Sandbox, attachment: Attachment, result: Object) -> None:
        """CHECK in order with the cached result. Raises CniFailure."""
        for plugin in attachment.conflist["plugins"]:
            config = plugin_config(attachment.conflist, plugin, result)
            await self._execute("CHECK", config, sandbox, attachment.interface)

    async def _execute(self, verb: str, config: Object, sandbox: Sandbox, interface: str) -> bytes:
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": sandbox.container_id,
            "CNI_NETNS": str(sandbox.netns),
            "CNI_IFNAME": interface,
            "CNI_ARGS": sandbox.args(),
            "CNI_PATH": str(self.plugin_path),
        }
        status, output, noise = await self.execute(config["type"], json.dumps(config).encode(), environment)
        if status != 0:
            raise parse_error(config["type"], status, output, noise)
        return output

    async def execute(self, plugin: str, stdin: bytes, environment: Mapping[str, str]) -> tuple[int, bytes, bytes]:
        """One plugin process with exactly these CNI variables. Returns exit status, stdout, stderr; −9 if it had to be killed after 60 s."""
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net={self.node_netns}",
            str(self.plugin_path / plugin),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                "NEPHILA_LAB_TIMES": str(self.times),
                **environment,
            },
        )
        try:
            async with asyncio.timeout(EXEC_TIMEOUT_S):
                output, noise = await process.communicate(stdin)
        except TimeoutError:
            return -9, b"", b"killed after 60 s"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, output, noise


def plugin_config(conflist: Object, plugin: Object, previous: Object | None) -> Object:
    """The configuration of one plugin of the list: its own keys, the list's name and version, the previous result."""
    config = {**plugin, "name": conflist["name"], "cniVersion": conflist["cniVersion"]}
    config.pop("capabilities", None)
    if previous is not None:
        config["prevResult"] = previous
    return config


def parse_result(plugin: str, output: bytes) -> Object:
    """Raises CniFailure (code 0) if it is not a JSON object."""
    with contextlib.suppress(ValueError):
        result = json.loads(output)
        if isinstance(result, dict):
            return result
    raise CniFailure(
        plugin, 0, "the plugin succeeded but printed no JSON object", output[:200].decode(errors="replace")
    )


def parse_error(plugin: str, status: int, output: bytes, noise: bytes) -> CniFailure:
    """The plugin's error object as an exception; code 0 if there is none."""
    with contextlib.suppress(ValueError):
        error = json.loads(output)
        if isinstance(error, dict) and "code" in error:
            return CniFailure(plugin, int(error["code"]), str(error.get("msg", "")), str(error.get("details", "")))
    words = (noise or output)[:300].decode(errors="replace").strip()
    return CniFailure(plugin, 0, f"exit status {status} without an error object", words)


def shim_times(times: Path) -> dict[tuple[str, str, str], float]:
    """(verb, container id, interface) → milliseconds of our own plugin, from the stopwatch's file."""
    found: dict[tuple[str, str, str], float] = {}
    if not times.exists():
        return found
    for line in times.read_text().splitlines():
        parts = line.split()
        if len(parts) == 5:
            found[parts[0], parts[1], parts[2]] = int(parts[4]) / 1e6
    return found
