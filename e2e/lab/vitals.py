"""How the product's processes stand: which watcher runs, how much memory they take, who leads."""

from collections import Counter
from collections.abc import Mapping

from e2e.lab import leaders
from e2e.lab.agents import Agent
from e2e.lab.api import Api
from e2e.lab.objects import name_of
from e2e.lab.report import Vitals


async def take(api: Api, agents: Mapping[str, Agent]) -> Vitals:
    """Read from IPNodes, the LeaderLock and /proc."""
    nodes, _ = await api.list("IPNode")
    states = {name_of(node): (node.get("status") or {}).get("probe") or {} for node in nodes}
    modes = Counter(str(state.get("mode", "unknown")) for state in states.values())
    reasons = {str(state.get("reason")) for state in states.values() if state.get("mode") != "ebpf"} - {"", "None"}
    now = await leaders.reign(api)
    pids = leaders.all_leaders(agents)
    standbys = sorted(set(pids) - {now.node})
    words = f"{now.node or 'nobody'}, term {now.term}; standing by: {', '.join(standbys) or 'nobody'}"
    return Vitals(
        watchers=dict(modes.most_common()),
        reasons=tuple(sorted(reasons)),
        agent_rss_mib=leaders.rss_mib(agent.child.pid for agent in agents.values() if agent.child.alive),
        leader_rss_mib=leaders.rss_mib(pids.values()),
        leader=words,
    )
