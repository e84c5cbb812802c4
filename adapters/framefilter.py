"""The classic BPF program that a socket of `adapters.frames` carries, so that the kernel wakes us for address
discovery alone.
"""

from __future__ import annotations

import struct

_LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06


def _tail(offset: int, at: int, accept: int, reject: int) -> list[tuple[int, int, int, int]]:
    """Accept ARP and ICMPv6 types 135 and 136, given the offset of the EtherType and the index of the first
    instruction.
    """
    network = offset + 2
    steps = [
        (_LOAD_HALF, 0, 0, offset),
        (_IF_EQUAL, accept, at + 2, 0x0806),
        (_IF_EQUAL, at + 3, reject, 0x86DD),
        (_LOAD_BYTE, 0, 0, network + 6),
        (_IF_EQUAL, at + 5, reject, 58),
        (_LOAD_BYTE, 0, 0, network + 40),
        (_IF_EQUAL, accept, at + 7, 135),
        (_IF_EQUAL, accept, reject, 136),
    ]
    # Jumps are relative to the next instruction.
    return [
        (code, yes - at - index - 1, no - at - index - 1, k) if code == _IF_EQUAL else (code, yes, no, k)
        for index, (code, yes, no, k) in enumerate(steps)
    ]


def discovery_filter(longest_frame: int) -> bytes:
    """Classic BPF: ARP and neighbour solicitations and advertisements, with at most one VLAN tag in the frame.

    The bytes are an array of `struct sock_filter`; longer frames are cut to `longest_frame`.
    """
    untagged, tagged, reject, accept = 3, 11, 19, 20
    program = [
        (_LOAD_HALF, 0, 0, 12),
        (_IF_EQUAL, tagged - 2, 0, 0x8100),
        (_IF_EQUAL, tagged - 3, 0, 0x88A8),
        *_tail(12, untagged, accept, reject),
        *_tail(16, tagged, accept, reject),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, longest_frame),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
