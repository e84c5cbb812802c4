"""How the agents themselves say that each ADD was served, from their logs: warm (at once), or after a wait; and what of it they hold ready."""

import asyncio
import json
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from e2e.lab import netns
from e2e.lab.agents import HEALTH_PORT

GIVEN = b'"address_given"'
SHORT_ID = 12  # characters of a container id in the agents' logs
SCRAPE_S = 5.0


@dataclass(frozen=True, slots=True)
class Served:
    """`how`: warm, waited, moved, adopted, repeat; `ms`: inside the agent, from the request read to the answer made."""

    how: str
    ms: float


def served(logs: Iterable[Path]) -> dict[tuple[str, str], Served]:
    """(first characters of the container id, interface) → how its first ADD that succeeded was served."""
    found: dict[tuple[str, str], Served] = {}
    for log in logs:
        if not log.exists():
            continue
        with log.open("rb") as lines:
            for line in lines:
                if GIVEN in line:
                    said = json.loads(line)
                    key = (str(said["container"]), str(said["ifname"]))
                    found.setdefault(key, Served(str(said["how"]), float(said["ms"])))
    return found


async def verified(node_ns: str) -> Mapping[str, int]:
    """Pool → addresses that a node holds ready: leased, free, and proven silent. Asked of the agent's own metrics. Raises OSError."""
    return ready_of(await asyncio.to_thread(netns.run_in, node_ns, _scrape))


def ready_of(text: str) -> Mapping[str, int]:
    """The same from the text of a scrape."""
    return {
        sample.labels["pool"]: int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "nephila_node_slots" and sample.labels["state"] == "ready"
    }


def _scrape() -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{HEALTH_PORT}/metrics", timeout=SCRAPE_S) as answer:
        text: str = answer.read().decode()
    return text
