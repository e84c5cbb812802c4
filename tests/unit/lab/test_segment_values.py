"""The lab's own frames against a codec that it does not use, and what it reads from objects and logs."""

from datetime import UTC, datetime
from pathlib import Path

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from e2e.lab import frames, stock
from e2e.lab.ledger import Call, Fate
from e2e.lab.scenarios.conflict import quarantined_at
from e2e.lab.scenarios.node_death import reuses

MAC = bytes.fromhex("020000000001")
TEXT = "02:00:00:00:00:01"


def test_an_arp_announcement_is_as_rfc_5227_says() -> None:
    frame = Ether(frames.announcement(MAC, "10.6.0.9"))
    assert (frame.src, frame.dst, frame[ARP].op) == (TEXT, "ff:ff:ff:ff:ff:ff", 1)
    assert (frame[ARP].hwsrc, frame[ARP].psrc, frame[ARP].pdst) == (TEXT, "10.6.0.9", "10.6.0.9")
    assert frame[ARP].hwdst == "00:00:00:00:00:00"


def test_an_unsolicited_advertisement_is_as_rfc_4861_says_with_a_right_checksum() -> None:
    raw = frames.announcement(MAC, "fd00:6::9")
    frame = Ether(raw)
    sent = frame[ICMPv6ND_NA].cksum
    assert (frame.dst, frame[IPv6].dst, frame[IPv6].hlim) == ("33:33:00:00:00:01", "ff02::1", 255)
    assert (frame[ICMPv6ND_NA].tgt, frame[ICMPv6ND_NA].S, frame[ICMPv6ND_NA].O) == ("fd00:6::9", 0, 1)
    assert frame[ICMPv6NDOptDstLLAddr].lladdr == TEXT
    del frame[ICMPv6ND_NA].cksum
    assert Ether(bytes(frame))[ICMPv6ND_NA].cksum == sent


def test_slots_of_a_block_are_read_as_addresses() -> None:
    block = {"spec": {"page": "10.6.0.64/26"}}
    assert stock.addresses_of(block, "0-2,7") == ["10.6.0.64", "10.6.0.65", "10.6.0.66", "10.6.0.71"]
    assert stock.addresses_of({"spec": {"page": "fd00:6::40/122"}}, "1") == ["fd00:6::41"]
    assert stock.addresses_of(block, "") == []


def test_only_a_quarantine_after_the_frame_counts(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    row = '{{"address": "10.6.0.9", "event": "address_quarantined", "timestamp": "2026-01-01T00:00:0{}.5Z"}}\n'
    log.write_text("not JSON\n" + row.format(1) + row.format(3))
    second = datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC).timestamp()
    assert quarantined_at([log], {"10.6.0.9": second}) == {"10.6.0.9": second + 1.5}
    assert quarantined_at([log], {"10.6.0.9": second + 5}) == {}


def test_an_address_of_the_dead_node_counts_as_used_again_only_on_another_node() -> None:
    def add(node: str, address: str, fate: Fate = Fate.OK) -> Call:
        return Call("ADD", "ns", "pod", node, "c", "eth0", 0.0, 1.0, fate, (f"{address}/16",))

    calls = [add("node-3", "10.6.0.1"), add("node-1", "10.6.0.2"), add("node-1", "10.6.0.1", Fate.FAILED)]
    assert reuses(calls, {"10.6.0.1"}, "node-3") == []
    again = add("node-2", "10.6.0.1")
    assert reuses([*calls, again], {"10.6.0.1"}, "node-3") == [again]
