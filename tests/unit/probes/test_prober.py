"""The prober and the verifier on a wire in memory with a clock that moves when told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from adapters.clock import ManualClock
from adapters.entropy import SeededEntropy
from adapters.frames import Heard, MemoryPort, MemorySegment
from ipam.addresses import Address, Family, Network
from probes import codec
from probes.macs import MacTable, Party
from probes.messages import Advertisement, Arp, How, Solicitation
from probes.prober import Lane, Limits, Prober, Reach
from probes.profiles import BALANCED, FAST, RFC
from probes.verdicts import State, Verdict
from probes.verifier import Verifier
from tests.unit.probes.wire import OTHER, OURS, THEIRS, V4, V4B, V6, V6B, advertisement, dad, probe, reply, request

Result = TypeVar("Result")
V4_NET = Network.parse("10.0.0.0/24")


class World:
    """One prober, and a wire to play the others on."""

    def __init__(self, *, hairpin: bool = False, macs: MacTable | None = None, limits: Limits | None = None) -> None:
        self.clock = ManualClock()
        self.segment = MemorySegment(hairpin=hairpin)
        self.port = self.segment.port(OURS)
        self.others: list[MemoryPort] = []
        self.here: set[Address] = set()
        self.prober = Prober(
            self.port,
            self.clock,
            SeededEntropy(7),
            macs=macs,
            limits=limits,
            local_addresses=lambda: self.here,
        )

    def holder(self, mac: str, *addresses: Address, every: bool = False, delay_s: float = 0.0) -> None:
        """A host that answers probes for `addresses`, or for every address as a proxy does."""
        port = self.segment.port(mac)
        self.others.append(port)

        def hear(heard: Heard) -> None:
            asked = codec.decode(heard.frame)
            if not isinstance(asked, (Arp, Solicitation)) or not (every or asked.target in addresses):
                return
            answer = (
                reply(asked.target, mac)
                if isinstance(asked, Arp)
                else advertisement(asked.target, mac, override=not every)
            )
            if delay_s:
                asyncio.ensure_future(self.later(delay_s, port, codec.encode(answer)))  # noqa: RUF006
            else:
                port.send([codec.encode(answer)])

        port.subscribe(hear)

    async def later(self, delay_s: float, port: MemoryPort, frame: bytes) -> None:
        await self.clock.sleep(delay_s)
        port.send([frame])

    async def run(self, work: Coroutine[Any, Any, Result], most_s: float = 30.0) -> Result:
        """The result of `work`, moving time as far as it needs."""
        task = asyncio.ensure_future(work)
        end = self.clock.now() + most_s
        while not task.done() and self.clock.now() < end:
            await self.clock.advance(0.002, turns=6)
        assert task.done(), "still running"
        return task.result()

    def sent(self) -> list[object]:
        return [codec.decode(frame) for frame in self.segment.frames]


async def test_a_silent_address_is_clear_and_a_held_one_taken_in_both_families() -> None:
    world = World()
    world.holder(THEIRS, V4, V6)
    verdicts = await world.run(world.prober.verify([V4, V4B, V6, V6B]))
    assert {address: verdict.state for address, verdict in verdicts.items()} == {
        V4: State.TAKEN,
        V4B: State.CLEAR,
        V6: State.TAKEN,
        V6B: State.CLEAR,
    }
    evidence = verdicts[V4].evidence
    assert evidence is not None
    assert (evidence.mac, evidence.how, evidence.party) == (THEIRS, How.ARP_REPLY, Party.FOREIGN)


async def test_nothing_is_ever_sent_from_a_candidate() -> None:
    world = World()
    await world.run(world.prober.verify([V4, V6], BALANCED))
    for message in world.sent():
        assert isinstance(message, (Arp, Solicitation))
        assert (message.sender if isinstance(message, Arp) else message.source).value == 0


async def test_our_own_frames_coming_back_are_no_conflict() -> None:
    world = World(hairpin=True)
    verdicts = await world.run(world.prober.verify([V4, V6]))
    assert {verdict.state for verdict in verdicts.values()} == {State.CLEAR}


async def test_an_overlapping_call_for_the_same_address_is_no_conflict_even_looped_back() -> None:
    world = World(hairpin=True)
    both = asyncio.gather(world.prober.verify([V6]), world.prober.verify([V6]))

    async def wait() -> list[dict[Address, Verdict]]:
        return list(await both)

    results = await world.run(wait())
    assert [verdicts[V6].state for verdicts in results] == [State.CLEAR, State.CLEAR]


@pytest.mark.parametrize("frame", [probe(V4, THEIRS), dad(V6, THEIRS, b"theirs")])
async def test_another_prober_takes_the_address(frame: Arp | Solicitation) -> None:
    world = World()
    stranger = world.segment.port(THEIRS)
    task = asyncio.ensure_future(world.run(world.prober.verify([frame.target])))
    await asyncio.sleep(0)
    asyncio.ensure_future(world.later(0.05, stranger, codec.encode(frame)))  # noqa: RUF006
    verdict = (await task)[frame.target]
    assert verdict.state is State.TAKEN
    assert verdict.evidence is not None
    assert verdict.evidence.how.is_probe


async def test_another_node_probing_the_same_address_is_no_conflict() -> None:
    world = World(macs=MacTable.of(cluster={OTHER: "node-2"}))
    node = world.segment.port(OTHER)
    task = asyncio.ensure_future(world.run(world.prober.verify([V4])))
    asyncio.ensure_future(world.later(0.05, node, codec.encode(probe(V4, OTHER))))  # noqa: RUF006
    assert (await task)[V4].state is State.CLEAR


async def test_an_answer_after_the_last_probe_is_heard() -> None:
    world = World()
    world.holder(THEIRS, V4, delay_s=FAST.arp.longest_s - FAST.arp.listen_s + 0.02)
    assert (await world.run(world.prober.verify([V4])))[V4].state is State.TAKEN


async def test_a_vlan_tagged_answer_belongs_to_another_network() -> None:
    world = World()
    stranger = world.segment.port(THEIRS)
    tagged = Arp(2, THEIRS, V4, V4B, source_mac=THEIRS, vlan=20)
    task = asyncio.ensure_future(world.run(world.prober.verify([V4])))
    asyncio.ensure_future(world.later(0.02, stranger, codec.encode(tagged)))  # noqa: RUF006
    assert (await task)[V4].state is State.CLEAR


async def test_a_link_that_is_down_or_goes_down_yields_unknown() -> None:
    world = World()
    world.port.up = False
    verdict = (await world.run(world.prober.verify([V4])))[V4]
    assert (verdict.state, "down" in verdict.reason) == (State.UNKNOWN, True)
    world.port.up = True
    task = asyncio.ensure_future(world.run(world.prober.verify([V4])))
    await world.clock.sleep(0.02)
    world.port.up = False
    assert (await task)[V4].state is State.UNKNOWN


async def test_lost_frames_make_silence_worthless_but_not_what_was_heard() -> None:
    world = World()
    world.port.room = 1
    world.holder(THEIRS, V4)
    noise = world.segment.port(OTHER)
    task = asyncio.ensure_future(world.run(world.prober.verify([V4, V4B])))
    await world.clock.sleep(0.1)
    noise.send([codec.encode(request(Address.parse("10.0.0.77"), OTHER))] * 5)
    verdicts = await task
    assert verdicts[V4].state is State.TAKEN
    assert (verdicts[V4B].state, "lost" in verdicts[V4B].reason) == (State.UNKNOWN, True)


async def test_this_nodes_own_address_is_taken_without_a_probe() -> None:
    world = World()
    world.here.add(V4)
    verdict = (await world.run(world.prober.verify([V4])))[V4]
    assert verdict.state is State.TAKEN
    assert verdict.evidence is not None
    assert verdict.evidence.how is How.LOCAL
    assert world.segment.frames == []


async def test_behind_a_proxy_the_survey_makes_free_addresses_clear_and_keeps_held_ones_taken() -> None:
    world = World()
    world.holder(OTHER, every=True)
    world.holder(THEIRS, V4, V6)
    before = await world.run(world.prober.verify([V4B]))
    assert before[V4B].state is State.TAKEN  # at its word the proxy has everything
    assert await world.run(world.prober.survey(V4_NET, [])) == {OTHER}
    verdicts = await world.run(world.prober.verify([V4, V4B]))
    assert (verdicts[V4].state, verdicts[V4B].state) == (State.TAKEN, State.CLEAR)
    assert OTHER in verdicts[V4B].reason


async def test_an_nd_proxy_is_found_by_a_random_address() -> None:
    world = World()
    world.holder(OTHER, every=True)
    assert await world.run(world.prober.survey(Network.parse("fd00::/64"))) == {OTHER}
    assert (await world.run(world.prober.verify([V6])))[V6].state is State.CLEAR


async def test_what_a_survey_found_is_forgotten_when_it_is_old() -> None:
    world = World()
    world.holder(OTHER, every=True)
    await world.run(world.prober.survey(V4_NET))
    await world.clock.advance(601.0)
    assert world.prober.proxies == frozenset()


async def test_a_host_with_many_addresses_is_not_taken_for_a_proxy() -> None:
    world = World()
    many = [Address(V4.family, V4.value + index) for index in range(40)]
    world.holder(THEIRS, *many)
    assert await world.run(world.prober.survey(V4_NET, [V4B])) == frozenset()
    verdicts = await world.run(world.prober.verify(many))
    assert {verdict.state for verdict in verdicts.values()} == {State.TAKEN}


async def test_a_gateway_that_answers_is_reachable_and_no_source_address_is_needed() -> None:
    world = World()
    world.holder(THEIRS, V4B)
    assert await world.run(world.prober.reach([V4B, V4])) == {V4B: Reach(True, THEIRS), V4: Reach(False)}
    assert {message.sender.value for message in world.sent() if isinstance(message, Arp)} == {0, V4B.value}
    world.port.up = False
    assert await world.run(world.prober.reach([V4B])) == {V4B: Reach(None)}


@pytest.mark.parametrize(
    ("gateway", "frame"), [(V4B, probe(V4B, OTHER)), (V6B, dad(V6B, OTHER, b"theirs"))], ids=["v4", "v6"]
)
async def test_other_nodes_that_ask_for_the_gateway_at_the_same_time_change_nothing(
    gateway: Address, frame: Arp | Solicitation
) -> None:
    """Every node asks for the same gateway: a probe that ended the test would make a living gateway look silent."""
    world = World()
    world.holder(THEIRS, gateway, delay_s=0.1)
    other = world.segment.port(OTHER)
    for delay_s in (0.002, 0.03, 0.06):
        asyncio.ensure_future(world.later(delay_s, other, codec.encode(frame)))  # noqa: RUF006
    assert await world.run(world.prober.reach([gateway])) == {gateway: Reach(True, THEIRS)}


async def test_surveys_of_two_networks_do_not_forget_each_other() -> None:
    world = World()
    world.holder(OTHER, every=True)
    await world.run(world.prober.survey(V4_NET))
    for other in world.others:
        other.up = False
    assert await world.run(world.prober.survey(Network.parse("10.0.1.0/24"))) == {OTHER}
    assert await world.run(world.prober.survey(V4_NET)) == frozenset()


async def test_a_proxy_named_by_the_administrator_is_known_without_a_survey() -> None:
    world = World()
    world.holder(OTHER, every=True)
    told = Prober(world.segment.port(OURS), world.clock, SeededEntropy(7), known_proxies=[OTHER])
    verdict = (await world.run(told.verify([V4])))[V4]
    assert (verdict.state, OTHER in verdict.reason) == (State.CLEAR, True)


async def test_announcements_carry_the_pods_mac_and_stop_when_told() -> None:
    world = World()
    world.prober.announce(V4, THEIRS)
    world.prober.announce(V6, THEIRS)
    await world.clock.advance(2.6)
    sent = world.sent()
    assert sent.count(Arp(1, THEIRS, V4, V4, source_mac=THEIRS)) == 2
    assert sent.count(Advertisement(V6, V6, THEIRS, override=True, link_mac=THEIRS)) == 3
    world.prober.stop_announcing(V4)
    await world.clock.advance(20.0)
    assert len(world.segment.frames) == 5
    await world.prober.close()


async def test_a_large_batch_keeps_to_the_rate_and_ends() -> None:
    world = World(limits=Limits(rate=500.0, burst=50.0))
    many = [Address(V4.family, V4.value + index) for index in range(256)]
    start = world.clock.now()
    verdicts = await world.run(world.prober.verify(many))
    took = world.clock.now() - start
    assert {verdict.state for verdict in verdicts.values()} == {State.CLEAR}
    assert len(world.segment.frames) == 256 * 3
    assert (256 * 3 - 50) / 500.0 <= took <= 2.0


async def test_a_pods_probe_does_not_wait_for_a_background_sweep() -> None:
    world = World(limits=Limits(rate=100.0, burst=20.0))
    many = [Address(V4.family, V4.value + 10 + index) for index in range(200)]
    sweep = asyncio.ensure_future(world.prober.verify(many, lane=Lane.BACKGROUND))
    await world.clock.advance(1.0)
    start = world.clock.now()
    verdict = (await world.run(world.prober.verify([V4])))[V4]
    assert verdict.state is State.CLEAR
    assert world.clock.now() - start < 0.3
    assert not sweep.done()
    sweep.cancel()


async def test_rfc_profile_takes_its_time() -> None:
    world = World()
    start = world.clock.now()
    await world.run(world.prober.verify([V4], RFC))
    assert 4.0 <= world.clock.now() - start <= 7.1


async def test_verifier_keeps_verdicts_fresh_and_quarantines_what_is_taken() -> None:
    world = World()
    world.holder(THEIRS, V4)
    heard: list[Verdict] = []
    verifier = Verifier(world.prober, world.clock, heard.append, interval_s=60.0)
    loop = asyncio.ensure_future(verifier.run())
    verifier.track(V4)
    verifier.track(V4B)
    await world.clock.advance(1.5)
    assert verifier.fresh(V4B)
    assert not verifier.fresh(V4)
    assert verifier.quarantine(V4) is not None
    for _ in range(40):  # a verdict is renewed before it is too old
        await world.clock.advance(5.0)
        assert verifier.fresh(V4B)
    for other in world.others:
        other.up = False
    await world.clock.advance(1300.0)
    assert verifier.quarantine(V4) is None
    assert verifier.fresh(V4)
    assert [verdict.state for verdict in heard if verdict.address == V4][-2:] == [State.CLEAR, State.CLEAR]
    loop.cancel()


async def test_an_address_held_back_for_a_proxys_answer_is_free_again_once_the_proxy_is_known() -> None:
    world = World()
    world.holder(OTHER, every=True)
    world.holder(THEIRS, V4)
    heard: list[Verdict] = []
    verifier = Verifier(world.prober, world.clock, heard.append, interval_s=60.0, profile=FAST)
    loop = asyncio.ensure_future(verifier.run())
    verifier.track(V4B)
    await world.clock.advance(0.5)
    assert verifier.quarantine(V4B) is not None
    await world.run(world.prober.survey(V4_NET))
    assert verifier.pardon({THEIRS}) == ()
    assert verifier.pardon({OTHER}) == (V4B,)
    await world.clock.advance(0.5)
    assert verifier.fresh(V4B)
    loop.cancel()


async def test_a_doubt_is_settled_by_a_test_and_its_own_echo_starts_no_other() -> None:
    world = World()
    heard: list[Verdict] = []
    verifier = Verifier(world.prober, world.clock, heard.append, interval_s=600.0, profile=FAST)
    loop = asyncio.ensure_future(verifier.run())
    verifier.track(V4)
    await world.clock.advance(0.5)
    verifier.recheck(V4)
    await world.clock.advance(1.0)
    assert len(heard) == 1  # that test has just been made
    await world.clock.advance(40.0)
    verifier.recheck(V4)
    await world.clock.advance(1.0)
    assert len(heard) == 2
    loop.cancel()


async def test_verifier_quarantines_at_once_what_the_watcher_saw() -> None:
    world = World()
    heard: list[Verdict] = []
    verifier = Verifier(world.prober, world.clock, heard.append, interval_s=60.0)
    loop = asyncio.ensure_future(verifier.run())
    verifier.track(V4)
    await world.clock.advance(1.5)
    assert verifier.fresh(V4)
    world.holder(THEIRS, V4)
    taken = (await world.run(world.prober.verify([V4])))[V4]
    assert taken.evidence is not None
    verifier.suspect(V4, taken.evidence)
    assert not verifier.fresh(V4)
    verifier.forget(V4)
    assert verifier.verdict(V4) is None
    loop.cancel()


class LazyPort(MemoryPort):
    """A port whose owner was too busy to be called back: what arrived waits for `poll`."""

    def arrive(self, heard: Heard) -> None:
        self._arrived.append(heard)


async def test_what_waits_in_the_socket_is_heard_before_time_decides() -> None:
    world = World()
    lazy = LazyPort(world.segment, OURS, "mem0", hear_outgoing=False)
    world.segment.add(lazy)
    prober = Prober(lazy, world.clock, SeededEntropy(7))
    world.holder(THEIRS, V4)
    verdicts = await world.run(prober.verify([V4, V4B]))
    assert (verdicts[V4].state, verdicts[V4B].state) == (State.TAKEN, State.CLEAR)


async def test_what_a_pod_waits_for_is_tested_beside_a_long_sweep_and_once() -> None:
    world = World(limits=Limits(rate=20.0, burst=128.0))
    heard: list[Verdict] = []
    verifier = Verifier(world.prober, world.clock, heard.append, interval_s=600.0, profile=FAST)
    loop = asyncio.ensure_future(verifier.run())
    for number in range(100):
        verifier.track(Address(Family.V4, V4.value + 100 + number))
    await world.clock.advance(1.0)
    assert not heard, "the sweep takes seconds"
    verifier.track(V4)
    verifier.hurry(V4)
    verifier.hurry(V4)
    for _ in range(100):
        await world.clock.advance(0.002, turns=6)
    assert [verdict.address for verdict in heard] == [V4]
    assert verifier.fresh(V4)
    verifier.hurry(V4)  # its first test is over: others have their own times
    for _ in range(30):
        await world.clock.advance(1.0)
    assert len(heard) == 101
    assert sum(verdict.address == V4 for verdict in heard) == 1
    loop.cancel()


async def test_the_verdict_of_a_test_that_began_before_an_address_was_let_go_says_nothing_about_it_now() -> None:
    world = World()
    heard: list[Verdict] = []
    verifier = Verifier(world.prober, world.clock, heard.append, interval_s=600.0, profile=FAST)
    verifier.track(V4)
    test = asyncio.ensure_future(verifier.sweep([V4]))
    await world.clock.advance(0.02)
    verifier.forget(V4)
    assert verifier.is_testing(V4), "its probes are still on the wire"
    verifier.track(V4)
    for _ in range(100):
        await world.clock.advance(0.002, turns=6)
    assert test.done() and not verifier.is_testing(V4)
    assert not heard
    assert not verifier.fresh(V4)
