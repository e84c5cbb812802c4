"""Tests addresses on one segment: joins the machines, the frames and the clock.

Every verdict of `verify` was reached with the link up, all probes sent and no frame lost; otherwise it is `unknown`.
Nothing is ever sent from a candidate address. Frames leave from the parent interface only: no pod interface is
touched or brought up. Bounded: addresses per call, tests in flight, frames a second, calls at once, announcements
outstanding, and the time of a call.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.frames import FramePort, Heard
from ipam.addresses import Address, Family, Network
from probes import codec
from probes.batch import DEFAULT_IN_FLIGHT, Batch, Candidate, Sender
from probes.course import MAX_RETRIES, Decided, Effect
from probes.dad import NONCE_BYTES
from probes.macs import MacTable, Party
from probes.messages import Advertisement, Arp, How, Message, Solicitation
from probes.pacing import TokenBucket
from probes.profiles import FAST, Profile
from probes.proxyarp import Survey
from probes.series import Announcer
from probes.verdicts import Evidence, Question, State, Surroundings, Verdict

QUANTUM_S = 0.002  # timers closer together than this are served in one turn
PROXY_FACTS_S = 600.0  # a survey older than this is forgotten: answers count as taken again
MAX_NONCES = 8192
_DRAW_BITS = 30


class Lane(Enum):
    """Who waits for the verdicts: a pod (ADD), free addresses that will soon be wanted (BACKGROUND), an administrator (AUDIT)."""

    ADD = "add"
    BACKGROUND = "background"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one segment. `rate` counts probes a second; ports with ARP inspection may allow far fewer (15 on some
    switches).
    """

    rate: float = 1000.0
    burst: float = 128.0
    in_flight: int = DEFAULT_IN_FLIGHT
    add_calls: int = 16
    background_calls: int = 1
    audit_calls: int = 1


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether a gateway answers; None if that could not be found out."""

    reachable: bool | None
    mac: str = ""


def no_addresses() -> Collection[Address]:
    """The default of `local_addresses`."""
    return ()


OnVerified = Callable[
    [Lane, Iterable[Verdict], float], None
]  # who waited, what was found, seconds with the wait for a turn


class Prober:
    """The tests of one interface and VLAN. Build it inside a running event loop; `close` ends what is outstanding."""

    def __init__(
        self,
        port: FramePort,
        clock: Clock,
        entropy: Entropy,
        *,
        vlan: int = 0,
        macs: MacTable | None = None,
        limits: Limits | None = None,
        local_addresses: Callable[[], Collection[Address]] = no_addresses,
        on_verified: OnVerified | None = None,
        known_proxies: Iterable[str] = (),
    ) -> None:
        """`known_proxies`: MACs that answer for everything, as an administrator says; in canonical form."""
        self._port = port
        self._clock = clock
        self._entropy = entropy
        self._vlan = vlan
        self._limits = limits or Limits()
        self._local_addresses = local_addresses
        self._on_verified = on_verified
        self._bucket = TokenBucket(self._limits.rate, self._limits.burst)
        self._lanes = {
            Lane.ADD: asyncio.Semaphore(self._limits.add_calls),
            Lane.BACKGROUND: asyncio.Semaphore(self._limits.background_calls),
            Lane.AUDIT: asyncio.Semaphore(self._limits.audit_calls),
        }
        self._nonces: OrderedDict[bytes, None] = OrderedDict()
        self._known_proxies = frozenset(known_proxies)
        self._surveys: dict[Network, tuple[float, frozenset[str]]] = {}
        self._announcer = Announcer(port, clock, vlan)
        self.macs = macs or MacTable()

    @property
    def proxies(self) -> frozenset[str]:
        """The MACs that answer for everything, as far as recent surveys of this segment's networks know."""
        now = self._clock.now()
        fresh = (found for at, found in self._surveys.values() if now - at < PROXY_FACTS_S)
        return self._known_proxies.union(*fresh)

    def link_up(self) -> bool:
        """Whether the interface exists, is up and has a carrier."""
        return self._port.ready()

    def flaps(self) -> int:
        """Grows when the link went down, or the interface was created anew."""
        return self._port.flaps()

    async def verify(
        self,
        addresses: Iterable[Address],
        profile: Profile = FAST,
        *,
        lane: Lane = Lane.ADD,
        holders: Mapping[Address, str] | None = None,
        question: Question = Question.FREE,
    ) -> dict[Address, Verdict]:
        """Test distinct `addresses` (at most `batch.MAX_CANDIDATES`, else ValueError); one verdict for each.

        `holders`: addresses in use by a pod of ours, with its MAC; only somebody else makes those `taken`.
        """
        wanted = dict.fromkeys(addresses)
        local = self._local_addresses()
        verdicts = {address: self._used_here(address) for address in wanted if address in local}
        around = Surroundings(self._own_macs(), self.proxies, holders or {}, question)
        batch = self._batch((address for address in wanted if address not in verdicts), profile, lane, around)
        began = self._clock.now()
        async with self._lanes[lane]:
            await self._run(batch, profile)
        verdicts |= batch.verdicts
        if self._on_verified is not None:
            self._on_verified(lane, verdicts.values(), self._clock.now() - began)
        return verdicts

    async def reach(
        self, gateways: Iterable[Address], profile: Profile = FAST, *, lane: Lane = Lane.ADD
    ) -> dict[Address, Reach]:
        """Whether `gateways` answer a probe. It is sent from 0.0.0.0 or ::, so no candidate address is used for it;
        other nodes that ask at the same time do not count as an answer.
        """
        verdicts = await self.verify(gateways, profile, lane=lane, question=Question.USED)
        return {gateway: _reach(verdict) for gateway, verdict in verdicts.items()}

    async def survey(self, network: Network, unused: Iterable[Address] = (), profile: Profile = FAST) -> frozenset[str]:
        """Find out who answers for everything on `network`; `unused`: addresses that the caller believes nobody has.

        The result replaces what was known of `network`, is kept for PROXY_FACTS_S and applied by `verify`. A survey
        during which the link was down changes nothing.
        """
        survey = Survey.of(self._certain_canaries(network), unused, self._own_macs(), self._vlan)
        around = Surroundings(self._own_macs(), question=Question.USED)
        batch = self._batch(survey.canaries, profile, Lane.BACKGROUND, around)
        async with self._lanes[Lane.BACKGROUND]:
            # The batch drops a canary at its first answer; a second MAC may answer for it a little later.
            await self._run(batch, profile, survey, linger_s=profile.arp.listen_s)
        if any(verdict.state is not State.UNKNOWN for verdict in batch.verdicts.values()):
            self._surveys[network] = self._clock.now(), survey.proxies
        return self.proxies

    def can_survey(self, network: Network) -> bool:
        """Whether `network` has an address that certainly nobody holds; random ones are drawn at each survey."""
        return bool(self._certain_canaries(network))

    def surveyed(self, network: Network) -> float:
        """When `network` was last surveyed with a result; -inf: never, or it was forgotten."""
        return self._surveys.get(network, (float("-inf"),))[0]

    def forget_survey(self, network: Network) -> None:
        """The network is no longer looked after."""
        self._surveys.pop(network, None)

    def announce(self, address: Address, mac: str) -> None:
        """Tell the segment, in a series over the next 10 s, that `mac` holds `address`. Only after the verdict and
        the allocation.
        """
        self._announcer.start(address, mac)

    def stop_announcing(self, address: Address) -> None:
        """End the series of an address that was released meanwhile; unknown addresses are ignored."""
        self._announcer.stop(address)

    async def close(self) -> None:
        """End announcements. Calls of `verify` still running end with `unknown`, since the port takes no more frames
        once it is closed.
        """
        await self._announcer.close()

    def _own_macs(self) -> MacTable:
        return replace(self.macs, own=self.macs.own | {self._port.mac})

    def _used_here(self, address: Address) -> Verdict:
        now = self._clock.now()
        return Verdict(address, State.TAKEN, now, Evidence(self._port.mac, How.LOCAL, Party.SELF, now))

    def _certain_canaries(self, network: Network) -> tuple[Address, ...]:
        host_bits = network.family.bits - network.prefix
        if network.family is Family.V4:
            return (Address(network.family, network.base),) if host_bits >= 2 else ()
        if host_bits < 64:
            return ()  # a random address of a small network may well be somebody's
        return (Address(network.family, network.base | self._entropy.bits(host_bits)),)

    def _batch(self, addresses: Iterable[Address], profile: Profile, lane: Lane, around: Surroundings) -> Batch:
        reserve = self._limits.burst / 2 if lane is not Lane.ADD else 0.0
        sender = Sender(self._port.mac, profile, self._vlan, self._limits.in_flight, reserve)
        return Batch((self._candidate(address, profile) for address in addresses), sender, around, self._bucket)

    def _candidate(self, address: Address, profile: Profile) -> Candidate:
        count = (profile.arp if address.family is Family.V4 else profile.nd).count
        draws = tuple(self._entropy.bits(_DRAW_BITS) / (1 << _DRAW_BITS) for _ in range(count))
        if address.family is Family.V4:
            return Candidate(address, draws)
        nonce = self._entropy.bits(NONCE_BYTES * 8).to_bytes(NONCE_BYTES, "big")
        self._nonces[nonce] = None
        if len(self._nonces) > MAX_NONCES:
            self._nonces.popitem(last=False)
        return Candidate(address, draws, nonce)

    async def _run(self, batch: Batch, profile: Profile, survey: Survey | None = None, linger_s: float = 0.0) -> None:
        run = _Run(self._port, self._clock, batch, survey, self._nonces)
        started = self._clock.now()
        tests = profile.arp, profile.nd
        probes = batch.size * max(timing.count for timing in tests)
        longest = max(timing.longest_s for timing in tests) * (1 + batch.size // self._limits.in_flight)
        # Twice what a whole segment's rate allows, because lanes share it.
        deadline = started + longest * (1 + MAX_RETRIES) + 2 * probes / self._limits.rate + 1.0
        await run.until_done(deadline, linger_s)


class _Run:
    """One batch on the wire."""

    def __init__(
        self, port: FramePort, clock: Clock, batch: Batch, survey: Survey | None, nonces: Mapping[bytes, None]
    ) -> None:
        self._port = port
        self._clock = clock
        self._batch = batch
        self._survey = survey
        self._nonces = nonces
        self._unsent: set[Address] = set()
        self._changed = asyncio.Event()

    async def until_done(self, deadline: float, linger_s: float) -> None:
        batch, clock, port = self._batch, self._clock, self._port
        unsubscribe = port.subscribe(self._hear)
        lost = port.lost()
        trouble = ""
        try:
            while not batch.done:
                port.poll()  # what arrived while the loop was busy comes before what time decides
                now = clock.now()
                if not port.ready():
                    trouble = f"the link of {port.name} is down"
                    break
                if now > deadline:
                    trouble = "no time was left"
                    break
                self._apply(batch.on_time(now))
                wake = batch.next_wake(now)
                if wake is not None:
                    await self._wait(max(wake - now, QUANTUM_S))
            if linger_s and not trouble:
                await clock.sleep(linger_s)
                port.poll()
            if port.lost() != lost:
                trouble = trouble or f"frames were lost on {port.name}"
        finally:
            unsubscribe()
        batch.abandon(clock.now(), trouble)
        for address in self._unsent if not trouble else tuple(batch.verdicts):
            batch.distrust(address, trouble or "a probe could not be sent")

    def _hear(self, heard: Heard) -> None:
        glimpse = None if heard.outgoing else codec.glimpse(heard.frame, heard.vlan)
        if glimpse is None or not self._interested(glimpse.address):
            return
        message = codec.decode(heard.frame, heard.vlan)
        if message is None or (isinstance(message, Solicitation) and message.nonce in self._nonces):
            return
        if self._survey is not None:
            self._survey.on_message(message)
        self._apply(self._batch.on_message(message, self._clock.now()))
        if self._batch.done:
            self._changed.set()

    def _interested(self, address: Address) -> bool:
        return self._batch.interested(address) or (self._survey is not None and address in self._survey.canaries)

    def _apply(self, effects: list[Effect]) -> None:
        messages = [effect.message for effect in effects if not isinstance(effect, Decided)]
        taken = self._port.send([codec.encode(message) for message in messages])
        self._unsent.update(map(_candidate_of, messages[taken:]))

    async def _wait(self, seconds: float) -> None:
        sleeper = asyncio.ensure_future(self._clock.sleep(seconds))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({sleeper, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            changed.cancel()


def _candidate_of(message: Message) -> Address:
    assert isinstance(message, (Arp, Solicitation, Advertisement))
    return message.target


def _reach(verdict: Verdict) -> Reach:
    answered = verdict.evidence is not None and not verdict.evidence.how.is_probe
    if answered and verdict.evidence is not None:
        return Reach(True, verdict.evidence.mac)
    return Reach(None if verdict.state is State.UNKNOWN else False)
