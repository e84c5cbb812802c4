"""python -m e2e.cluster.refusals [--write]     the table of refusals, from a real API server; --write puts it into docs/security.md

Every attempt starts from the same objects, is sent with `dryRun=All` (admission and validation are as ever, nothing is stored), and carries a real
token: see `attempts.py`. What RBAC refuses although a policy should too is tried again with a role that allows everything.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crds.generate import ROOT
from crds.policies import AGENT
from e2e.cluster.attempts import Attempt, By, Who, allowed_attempts, block_attempts, other_attempts
from e2e.cluster.client import Answer, JsonClient
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.program import ClusterFailed
from e2e.cluster.security import RBAC, apply, bind, install, is_by_policy, join, leader_token, token, until_enforced
from e2e.cluster.standing import BLOCKS, block, starting_objects

PAGE = Path("docs/security.md")
BEGIN, END = "<!-- refusals: python -m e2e.cluster.refusals --write -->", "<!-- end of refusals -->"
EVERYTHING_NAME = "nephila-test-everything"
EVERYTHING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": EVERYTHING_NAME},
    "rules": [{"apiGroups": ["nephila.io", "spiderpool.spidernet.io"], "resources": ["*"], "verbs": ["*"]}],
}
FORCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt. `wrong`: how that differs from what was expected; "" if it does not."""

    attempt: Attempt
    answer: Answer
    wrong: str


class Court:
    """A cluster with Nephila's security on it, two nodes, and the tokens that programs on them have."""

    def __init__(self, cluster: ControlPlane, policies: Sequence[str] = ()) -> None:
        self.cluster = cluster
        self._policies = tuple(policies)
        self.tokens: dict[Who, str] = {}

    async def open(self) -> None:
        """Raises ClusterFailed."""
        admin = self.cluster.client()
        if self._policies:
            await install(admin, policies=self._policies)
        else:
            await install(admin)
        self.tokens = {
            Who.AGENT_A: await join(admin, "node-a"),
            Who.AGENT_B: await join(admin, "node-b"),
            Who.UNBOUND: await token(admin, AGENT),
            Who.LEADER: await leader_token(admin),
        }
        for path, body in starting_objects().items():
            await _create(admin, path, body)
        # A policy comes into force a moment after it is there.
        probe = block()
        probe["metadata"] = {"name": "ip4-10-9-1-0"}
        probe["spec"] |= {"page": "10.9.1.0/26"}
        await until_enforced(self.client(Who.AGENT_A), BLOCKS, probe)

    def client(self, who: Who) -> JsonClient:
        return self.cluster.client(self.tokens[who])

    async def hear(self, attempts: Iterable[Attempt]) -> list[Outcome]:
        """Each attempt's outcome, with the accounts' own rights."""
        return [_judge(attempt, await self._patiently(attempt), attempt.by) for attempt in attempts]

    async def hear_without_rbac(self, attempts: Iterable[Attempt]) -> list[Outcome]:
        """The outcome of those that a policy should refuse even if RBAC allowed them."""
        admin = self.cluster.client()
        await apply(admin, EVERYTHING)
        await bind(admin, EVERYTHING_NAME, AGENT)
        chosen = [attempt for attempt in attempts if attempt.by is By.BOTH]
        try:
            return [_judge(attempt, await self._patiently(attempt, By.POLICY), By.POLICY) for attempt in chosen]
        finally:
            await admin.request("DELETE", f"{RBAC}/clusterrolebindings/{EVERYTHING_NAME}.{AGENT}")

    async def _patiently(self, attempt: Attempt, by: By | None = None) -> Answer:
        """Roles and policies take a moment to reach the server's caches: what is not as expected is asked again for a while."""
        answer = await self._ask(attempt)
        try:
            async with asyncio.timeout(FORCE_S):
                while _judge(attempt, answer, by or attempt.by).wrong:
                    await asyncio.sleep(0.1)
                    answer = await self._ask(attempt)
        except TimeoutError:
            pass
        return answer

    async def _ask(self, attempt: Attempt) -> Answer:
        path = attempt.path if attempt.method == "GET" else f"{attempt.path}?dryRun=All"
        return await self.client(attempt.who).request(
            attempt.method, path, attempt.body, content_type=attempt.content_type
        )


async def _create(admin: JsonClient, path: str, body: dict[str, object]) -> None:
    collection = path.rpartition("/")[0]
    answer = await admin.post(collection, body)
    if answer.status != 201:
        raise ClusterFailed(f"{path} was refused: {answer.status} {answer.message}")


def _judge(attempt: Attempt, answer: Answer, by: By) -> Outcome:
    told = f"{answer.status} {answer.message}"
    if by is By.NOBODY:
        return Outcome(attempt, answer, "" if answer.status in (200, 201) else f"refused: {told}")
    if answer.status != 403:
        return Outcome(attempt, answer, f"not refused with 403: {told}")
    if is_by_policy(answer) != (by is By.POLICY):
        return Outcome(attempt, answer, f"refused by something else: {told}")
    says = attempt.says if by is attempt.by else ""
    return Outcome(attempt, answer, "" if says in answer.message else f"says something else: {told}")


def table(outcomes: Sequence[Outcome]) -> str:
    """The refusals in Markdown."""
    lines = ["| who | attempt | refused by | the API server's words |", "|---|---|---|---|"]
    for outcome in outcomes:
        attempt, words = outcome.attempt, outcome.answer.message
        words = words.rpartition(" denied request: ")[2] if is_by_policy(outcome.answer) else _shortened(words)
        lines.append(f"| {attempt.who.value} | {attempt.title} | {attempt.by.value} | {words} |")
    return "\n".join(lines)


def _shortened(words: str) -> str:
    """RBAC's message without the account's full name, which is the same in each."""
    return "cannot " + words.partition(" cannot ")[2] if " cannot " in words else words


async def collect(cluster: ControlPlane) -> tuple[list[Outcome], list[Outcome]]:
    """(refusals, everything that is not as expected). Raises ClusterFailed."""
    court = Court(cluster)
    await court.open()
    attempts = [*block_attempts(), *other_attempts()]
    refused = await court.hear(attempts)
    rest = [*await court.hear(allowed_attempts()), *await court.hear_without_rbac(attempts)]
    return refused, [outcome for outcome in (*refused, *rest) if outcome.wrong]


def written(page: str, text: str) -> str:
    """The page with `text` between its marks."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}"


async def _main(path: Path | None) -> int:
    async with ControlPlane() as cluster:
        refused, wrong = await collect(cluster)
    print(table(refused))
    for outcome in wrong:
        print(f"NOT AS EXPECTED: {outcome.attempt.title}: {outcome.wrong}", file=sys.stderr)
    print(
        f"{len(refused) - len([o for o in wrong if o in refused])} refused, {len(wrong)} not as expected",
        file=sys.stderr,
    )
    if path is not None and not wrong:
        path.write_text(written(path.read_text(), table(refused)))
    return int(bool(wrong))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster.refusals", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(_main(ROOT / PAGE if options.write else None))
    except ClusterFailed as error:
        print(f"e2e.cluster.refusals: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
