"""A stand-in for the agent: it speaks the socket protocol and allocates naively, so that the lab itself can be tested.

Node number n takes each third address only, which no real allocator may do; it has no leases, no probes and no recovery but its journal.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import json
import sqlite3
from pathlib import Path

import yaml

from e2e.lab.api import Api, ApiError
from e2e.lab.objects import Object, annotations_of, name_of

SHARES = 3


class Refused(Exception):
    pass


class FakeAgent:
    def __init__(self, config: Object, api: Api) -> None:
        self.node = config["node"]
        self.share = int(self.node.rpartition("-")[2]) % SHARES
        self.api = api
        self.pools: list[Object] = []
        self.reserved: set[int] = set()
        self.journal = sqlite3.connect(Path(config["stateDir"]) / "journal.db", isolation_level=None)
        self.journal.execute("PRAGMA journal_mode=WAL")
        self.journal.execute(
            "CREATE TABLE IF NOT EXISTS attachments (id TEXT, ifname TEXT, family INT, value TEXT, pod TEXT)"
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(
            line.lower().split(": ", 1) if line.lower().startswith("content") else line.split(": ", 1)
            for line in head[1:]
            if ": " in line
        )
        body = await reader.readexactly(int(headers["content-length"]))
        status, answer = 200, b""
        try:
            answer = await self.handle(headers, json.loads(body))
        except (Refused, ApiError, KeyError) as error:
            status = 500
            answer = json.dumps(
                {"cniVersion": "1.0.0", "code": 11, "msg": repr(error), "details": "Fake; hint: none"}
            ).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)
        await writer.drain()
        writer.close()

    async def handle(self, headers: dict[str, str], config: Object) -> bytes:
        verb = headers["Cni-Command"]
        if verb == "STATUS":
            return b""
        key = headers["Cni-Containerid"], headers["Cni-Ifname"]
        if verb == "DEL":
            return await self.release(*key)
        args = dict(item.split("=", 1) for item in headers["Cni-Args"].split(";"))
        return await self.allocate(*key, args["K8S_POD_NAMESPACE"], args["K8S_POD_NAME"], args["K8S_POD_UID"])

    async def release(self, container: str, ifname: str) -> bytes:
        row = self.journal.execute(
            "SELECT pod FROM attachments WHERE id=? AND ifname=?", (container, ifname)
        ).fetchone()
        self.journal.execute("DELETE FROM attachments WHERE id=? AND ifname=?", (container, ifname))
        if row is not None:
            namespace, _, name = row[0].partition("/")
            await self.api.delete("SpiderEndpoint", name, namespace)
        return b""

    async def allocate(self, container: str, ifname: str, namespace: str, pod: str, uid: str) -> bytes:
        await self.refresh()
        wanted = await self.wanted(namespace, pod)
        chosen = [self.pick(names) for names in wanted if names]
        with contextlib.closing(self.journal.cursor()) as cursor:
            rows = [(container, ifname, address.version, int(address), f"{namespace}/{pod}") for address, _ in chosen]
            cursor.execute("BEGIN")
            cursor.executemany(
                "INSERT INTO attachments VALUES (?,?,?,?,?)", [(a, b, c, str(d), e) for a, b, c, d, e in rows]
            )
            cursor.execute("COMMIT")
        ips = [
            {"address": f"{a}/{16 if a.version == 4 else 64}", "gateway": "10.6.0.1" if a.version == 4 else "fd00:6::1"}
            for a, _ in chosen
        ]
        detail: Object = {"interface": ifname}
        for (address, pool), ip in zip(chosen, ips, strict=True):
            detail |= {f"ipv{address.version}": ip["address"], f"ipv{address.version}Pool": pool}
        current = {"uid": uid, "node": self.node, "ips": [detail]}
        status = {"ownerControllerType": "Pod", "ownerControllerName": pod, "current": current}
        metadata = {"name": pod, "namespace": namespace}
        await self.api.apply(
            {
                "apiVersion": "spiderpool.spidernet.io/v2beta1",
                "kind": "SpiderEndpoint",
                "metadata": metadata,
                "status": status,
            }
        )
        return json.dumps({"cniVersion": "1.0.0", "ips": ips, "dns": {}}).encode()

    async def refresh(self) -> None:
        if not self.pools:
            self.pools, _ = await self.api.list("SpiderIPPool")
            items, _ = await self.api.list("SpiderReservedIP")
            self.reserved = {value for item in items for value in _values(item["spec"]["ips"])}
        self.rack = ((await self.api.get("Node", self.node))["metadata"]["labels"])["rack"]

    async def wanted(self, namespace: str, pod: str) -> list[list[str]]:
        said = annotations_of(await self.api.get("Pod", pod, namespace)).get("ipam.spidernet.io/ippool")
        if said:
            choice = json.loads(said)
            return [choice.get("ipv4", []), choice.get("ipv6", [])]
        notes = annotations_of(await self.api.get("Namespace", namespace))
        own = [json.loads(notes.get(f"ipam.spidernet.io/default-ipv{v}-ippool", "[]")) for v in (4, 6)]
        return own if any(own) else [["default-v4"], ["default-v6"]]

    def pick(self, names: list[str]) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, str]:
        used = {int(value) for (value,) in self.journal.execute("SELECT value FROM attachments")}
        for pool in (pool for name in names for pool in self.pools if name_of(pool) == name):
            spec = pool["spec"]
            if name_of(pool).startswith("rack-") and name_of(pool) != f"rack-{self.rack}":
                continue
            out = set(_values(spec.get("excludeIPs") or [])) | self.reserved | used
            for value in _values(spec["ips"]):
                if value not in out and (value % SHARES == self.share or name_of(pool).startswith("rack-")):
                    return _address(value, spec), name_of(pool)
        raise Refused(f"no address in {names}")


async def tell_metrics(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """It leases nothing and verifies nothing, so that whatever it says here lets the story go on."""
    await reader.readuntil(b"\r\n\r\n")
    text = b'# TYPE nephila_node_slots gauge\nnephila_node_slots{pool="none",state="ready"} 99\n'
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
    await writer.drain()
    writer.close()


def _address(value: int, spec: Object) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv6Address(value) if ":" in spec["subnet"] else ipaddress.IPv4Address(value)


def _values(texts: list[str]) -> list[int]:
    found: list[int] = []
    for text in texts:
        first, _, last = text.partition("-")
        found += range(int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last or first)) + 1)
    return found


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--share", type=int, help="which third to use, instead of one's own: a double allocation in waiting"
    )
    options = parser.parse_args()
    config = yaml.safe_load(options.config.read_text())
    socket = Path(config["socket"])
    socket.unlink(missing_ok=True)
    async with Api(config["api"]["url"], "fake-agent") as api:
        agent = FakeAgent(config, api)
        agent.share = agent.share if options.share is None else options.share
        spool = socket.parent / "spool"
        for file in sorted(spool.glob("*.del")):
            lines = file.read_text().splitlines()
            headers = dict(line.split(": ", 1) for line in lines if ": " in line)
            await agent.release(headers["Cni-Containerid"], headers["Cni-Ifname"])
            file.unlink()
        host, _, port = config["healthAddress"].rpartition(":")
        async with (
            await asyncio.start_server(tell_metrics, host, int(port)),
            await asyncio.start_unix_server(agent.serve, socket) as server,
        ):
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
