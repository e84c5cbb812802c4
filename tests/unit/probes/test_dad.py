"""RFC 4862 section 5.4 with the nonce of RFC 7527."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probes.course import Send
from probes.dad import NdTest
from probes.macs import MacTable
from probes.messages import ANY_V6, Advertisement, How, Message, Solicitation
from probes.verdicts import State, Surroundings
from tests.unit.probes.wire import (
    DRAWS,
    FAST_ND,
    NONCE,
    NONCE2,
    OTHER,
    OURS,
    RFC_ND,
    THEIRS,
    V6,
    V6B,
    advertisement,
    dad,
    reply,
)

AROUND = Surroundings(MacTable.of(own=[OURS], cluster={OTHER: "node-2"}))


def begun() -> NdTest:
    return NdTest.begin(V6, OURS, NONCE, FAST_ND, DRAWS, 100.0)


def test_one_solicitation_and_a_second_of_silence_is_clear() -> None:
    test = NdTest.begin(V6, OURS, NONCE, RFC_ND, (0.5,), 100.0)
    test, effects = test.on_time(100.5)
    assert effects == (Send(Solicitation(ANY_V6, V6, OURS, nonce=NONCE)),)
    assert test.on_time(101.49) == (test, ())
    test, _ = test.on_time(101.5)
    assert test.verdict is not None
    assert test.verdict.state is State.CLEAR


@pytest.mark.parametrize(
    ("message", "how"),
    [
        (advertisement(V6, THEIRS), How.ND_ADVERTISEMENT),
        (advertisement(V6, THEIRS, override=False), How.ND_ADVERTISEMENT),
        (dad(V6, THEIRS, None), How.ND_PROBE),
        (dad(V6, THEIRS, NONCE2), How.ND_PROBE),
        (dad(V6, OURS, NONCE2), How.ND_PROBE),  # a host with our MAC (RFC 7527 section 4.2)
        (Solicitation(V6, V6B, THEIRS), How.ND_CLAIM),  # sent from the candidate
    ],
)
def test_what_makes_it_taken(message: Message, how: How) -> None:
    test, _ = begun().on_message(message, AROUND, 100.1)
    assert test.verdict is not None
    assert test.verdict.state is State.TAKEN
    assert test.verdict.evidence is not None
    assert test.verdict.evidence.how is how


@pytest.mark.parametrize(
    "message",
    [
        dad(V6, OURS, NONCE),  # our own, looped back
        dad(V6, THEIRS, NONCE),  # the same through a device that rewrites the Ethernet source
        dad(V6, OURS, None),
        dad(V6, OTHER, NONCE2),  # another node's test
        Solicitation(V6B, V6, THEIRS),  # address resolution by a third host
        advertisement(V6B, THEIRS),
        replace(advertisement(V6, THEIRS), vlan=9),
        reply(V6, THEIRS),
    ],
)
def test_what_proves_nothing(message: Message) -> None:
    test = begun()
    assert test.on_message(message, AROUND, 100.1) == (test, ())


def test_an_nd_proxys_answer_is_told_from_a_holders_by_override() -> None:
    around = replace(AROUND, proxies=frozenset({THEIRS}))
    test, _ = begun().on_message(advertisement(V6, THEIRS, override=False), around, 100.1)
    assert test.verdict is None
    test, _ = test.on_message(advertisement(V6, THEIRS, override=True), around, 100.1)
    assert test.verdict is not None


def test_evidence_names_the_target_link_layer_address() -> None:
    message = Advertisement(V6, V6, OTHER, link_mac=THEIRS)
    test, _ = begun().on_message(message, AROUND, 100.1)
    assert test.verdict is not None
    assert test.verdict.evidence is not None
    assert test.verdict.evidence.mac == THEIRS


def test_a_short_nonce_is_refused() -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        NdTest.begin(V6, OURS, b"abc", FAST_ND, DRAWS, 0.0)
