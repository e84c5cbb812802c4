"""Real exposition text: an agent and a leader over the in-memory API, after a few requests of every kind."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.exposition import generate_latest

from adapters.clock import SystemClock
from adapters.families import Type
from adapters.telemetry import ApiMetrics, new_registry
from crds.nephila import IP_BLOCK
from e2e.reference.observability import common_families, spiderpool_agent_families
from leader.metrics import LEADER_FAMILIES, LeaderCollector
from leader.metrics_spiderpool import CONTROLLER_FAMILIES, SpiderpoolLeaderCollector
from nodeagent.agent import Agent
from nodeagent.happenings import Happenings
from nodeagent.metrics import AGENT_FAMILIES, AgentCollector
from nodeagent.metrics_spiderpool import SpiderpoolAgentCollector
from nodeagent.spool import Spool
from probes.prober import Lane
from tests.unit.leader.harness import leader
from tests.unit.nodeagent.harness import FAST, Lab, add, delete, eventually, failed, http


class AgentScrape:
    """What `nodeagent.service` builds around an agent."""

    def __init__(self, agent: Agent, place: Path, *, debug: bool = False) -> None:
        clock = SystemClock()
        self.happened = Happenings()
        self.registry = new_registry("agent", "test")
        self.api = ApiMetrics(self.registry)
        spool = Spool(place, agent.verbs.delete, clock)
        self.registry.register(AgentCollector(agent, spool, self.happened, clock, lambda: 0.0))
        self.registry.register(SpiderpoolAgentCollector(agent, debug=debug))

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


async def agent_text(place: Path, *, debug: bool = False) -> str:
    """The exposition of an agent that has served, refused, waited and released."""
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.12", default=True)
    async with lab.agent("n1", lease=FAST) as agent:
        scrape = AgentScrape(agent, place, debug=debug)
        scrape.api("PATCH", IP_BLOCK, 200, 0.01)
        scrape.happened.on_journal("commit", 0.0004)
        scrape.happened.on_journal("sync", 0.004)
        scrape.happened.on_probe(Lane.BACKGROUND, (), 0.3)
        scrape.happened.on_review("validate", "refused")
        pods = [await lab.pod(f"p{number}", "n1") for number in range(4)]
        for number, pod in enumerate(pods[:3]):
            await add(agent, f"c{number}", pod)
        await failed(agent, http("ADD", "c3", pods[3]))
        await delete(agent, "c0")
        await failed(agent, http("CHECK", "c0", pods[0]))
        return scrape.text()


async def leader_text(*, debug: bool = False) -> str:
    """The exposition of a leader that leads, with an agent that has an address in use."""
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20", default=True)
    async with lab.agent("n1") as agent, leader(lab) as one:
        registry = new_registry("leader", "test")
        ApiMetrics(registry)("PATCH", IP_BLOCK, 200, 0.01)
        registry.register(LeaderCollector(one, SystemClock()))
        registry.register(SpiderpoolLeaderCollector(one, debug=debug))
        await add(agent, "c1", await lab.pod("p", "n1"))
        await eventually(lambda: registry.get_sample_value("nephila_pool_allocated", {"pool": "v4"}) == 1)
        return generate_latest(registry).decode()


def declared_series() -> dict[str, frozenset[str]]:
    """Every series that is exported without the debug names, with its labels."""
    found: dict[str, frozenset[str]] = {}
    families = (
        *common_families(),
        *AGENT_FAMILIES,
        *LEADER_FAMILIES,
        *spiderpool_agent_families(),
        *CONTROLLER_FAMILIES,
    )
    for family in families:
        for name in family.series:
            extra = {"le"} if family.type is Type.HISTOGRAM and name.endswith("_bucket") else set()
            found[name] = frozenset({*family.labels, *extra})
    return found
