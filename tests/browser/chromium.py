"""Debian's Chromium, driven through chromedriver's W3C WebDriver protocol: what a user does, and what is then on the screen."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
WAIT_S = 60.0
KEYS = {
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "ArrowDown": "\ue015",
    "ArrowRight": "\ue014",
    "Tab": "\ue004",
    "End": "\ue010",
}


class Browser:
    """One page. Selectors are CSS; `until` and `script` take JavaScript."""

    def __init__(self, http: aiohttp.ClientSession, session: str) -> None:
        self._http = http
        self._session = session

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with self._http.request(method, f"{self._session}{path}", json=body) as response:
            answer = (await response.json())["value"]
            if response.status != 200:
                raise AssertionError(f"{path}: {answer['error']}: {answer['message']}")
            return answer

    async def go(self, url: str) -> None:
        await self._ask("POST", "/url", {"url": url})

    async def script(self, code: str, *arguments: Any) -> Any:
        return await self._ask("POST", "/execute/sync", {"script": code, "args": list(arguments)})

    async def until(self, condition: str, *arguments: Any) -> Any:
        """The first true value of the expression `condition`; AssertionError if there is none in time."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while asyncio.get_running_loop().time() < deadline:
            if value := await self.script(f"return {condition}", *arguments):
                return value
            await asyncio.sleep(0.1)
        seen = await self.script("return document.body.innerText")
        raise AssertionError(f"never came true: {condition}\n{seen}\n{await self.log()}")

    async def text(self, selector: str) -> str:
        return str(await self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    async def click(self, selector: str) -> None:
        found = await self._ask("POST", "/element", {"using": "css selector", "value": selector})
        await self._ask("POST", f"/element/{found[ELEMENT]}/click", {})

    async def type(self, selector: str, text: str) -> None:
        found = await self._ask("POST", "/element", {"using": "css selector", "value": selector})
        await self._ask("POST", f"/element/{found[ELEMENT]}/value", {"text": text})

    async def press(self, *names: str) -> None:
        """Real key strokes, wherever the focus is."""
        strokes = [{"type": kind, "value": KEYS.get(name, name)} for name in names for kind in ("keyDown", "keyUp")]
        await self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    async def point(self, x: float, y: float, *, press: str = "") -> None:
        """Move the mouse to a place of the window; with `press`, click there."""
        actions: list[dict[str, Any]] = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 50}]
        if press:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        await self._ask("POST", "/actions", {"actions": [mouse]})

    async def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self._cdp("Emulation.setDeviceMetricsOverride", metrics)

    async def scheme(self, name: str) -> None:
        await self._cdp("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})

    async def shot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(await self._ask("GET", "/screenshot")))

    async def log(self) -> list[str]:
        """What the console said since the last call: errors of the page, refused resources."""
        return [str(entry["message"]) for entry in await self._ask("POST", "/se/log", {"type": "browser"})]

    async def _cdp(self, command: str, parameters: dict[str, Any]) -> None:
        await self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Browser]:
    """A browser with an empty profile; it and its driver are gone afterwards, however the test ends."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or binary is None:
        raise RuntimeError("chromium and chromium-driver are missing: run tools/bootstrap browser")
    process = await asyncio.create_subprocess_exec(
        driver,
        "--port=0",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": str(profile)},
    )
    try:
        async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as http:
            base = f"http://127.0.0.1:{await _port(process)}/session"
            options = {"binary": binary, "args": [*FLAGS, f"--user-data-dir={profile}/data"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            async with http.post(base, json={"capabilities": {"alwaysMatch": wanted}}) as response:
                value = (await response.json())["value"]
            if "sessionId" not in value:
                raise RuntimeError(f"chromium did not start: {value}")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as http:
            yield Browser(http, f"{base}/{value['sessionId']}")
            with suppress(aiohttp.ClientError, TimeoutError):
                await http.delete(f"{base}/{value['sessionId']}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found[1])
    raise RuntimeError("chromedriver ended before it listened")
