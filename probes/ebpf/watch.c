// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// Watches ARP and IPv6 neighbour discovery on one interface, both directions (tc clsact, direct action).
//
// Observer only: every path returns TC_ACT_UNSPEC, so no packet is changed, dropped or hidden from another filter.
// Addresses are 16 bytes (IPv4 in the first four, the rest zero). Userland mirrors these structures in layout.py.

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>

#define INGRESS 0
#define EGRESS 1

#define HOW_CLAIM 1  // the sender uses the address: ARP request's sender field, NA target with Override, NS source
#define HOW_PROBE 2  // the sender asks whether the address is free: ARP from 0.0.0.0, NS from ::
#define HOW_ANSWER 3 // as a claim, but a proxy could have said it: ARP reply, NA without Override

#define EXPECT_NOBODY 0
#define EXPECT_MAC 1
#define EXPECT_SETTLING 2 // held on this node by a MAC not known yet: what leaves this node does not count

#define MAC_SELF 1    // sends our probes: what returns is a copy of our own frame
#define MAC_CLUSTER 2 // sends another node's probes: its probes are not conflicts, its claims are

#define REPEAT_NS 1000000000ULL // the same MAC on the same address is reported once a second,
#define FLOOD_NS 10000000ULL    // any MAC on the same address at most every 10 ms

struct where {
    u8 address[16];
    u16 vlan;
    u8 family;
    u8 zero;
};

struct mac_key {
    u8 mac[6];
    u16 zero;
};

struct sighting {
    u64 at_ns;
    u8 mac[6];
    u8 direction;
    u8 how;
};

struct expectation {
    u64 reported_ns;
    u8 mac[6];
    u8 kind;
    u8 zero;
    u8 reported_mac[6];
    u16 suppressed;
};

struct event {
    u64 at_ns;
    u8 address[16];
    u16 vlan;
    u8 family;
    u8 how;
    u8 mac[6];
    u8 direction;
    u8 zero;
    u32 suppressed;
};

BPF_TABLE("lru_hash", struct where, struct sighting, last_seen, LAST_SEEN_ENTRIES);
BPF_TABLE("hash", struct where, struct expectation, watched, WATCHED_ENTRIES);
BPF_TABLE("hash", struct mac_key, u32, macs, MACS_ENTRIES);
BPF_TABLE("array", u32, u64, counters, 4);
BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);

#define COUNT_FRAMES 0
#define COUNT_EVENTS 1
#define COUNT_SUPPRESSED 2
#define COUNT_LOST 3

static __always_inline void count(u32 which) {
    u64 *value = counters.lookup(&which);
    if (value)
        __sync_fetch_and_add(value, 1);
}

static __always_inline int same_mac(const u8 *a, const u8 *b) {
    return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

static __always_inline int counts(struct expectation *want, struct mac_key *who, u8 how, u8 direction) {
    u32 *known = macs.lookup(who);
    if (known && *known == MAC_SELF && (direction == INGRESS || how == HOW_PROBE))
        return 0;
    if (known && *known == MAC_CLUSTER && how == HOW_PROBE)
        return 0;
    if (want->kind == EXPECT_MAC && same_mac(want->mac, who->mac))
        return 0;
    return !(want->kind == EXPECT_SETTLING && direction == EGRESS);
}

static __always_inline void seen(struct where *at, struct mac_key *who, u8 how, u8 direction) {
    u64 now = bpf_ktime_get_boot_ns();
    count(COUNT_FRAMES);
    if (how != HOW_PROBE) {
        struct sighting use = {.at_ns = now, .direction = direction, .how = how};
        __builtin_memcpy(use.mac, who->mac, 6);
        last_seen.update(at, &use);
    }
    struct expectation *want = watched.lookup(at);
    if (!want || !counts(want, who, how, direction))
        return;
    u64 since = now - want->reported_ns;
    if (want->reported_ns && (since < FLOOD_NS || (since < REPEAT_NS && same_mac(want->reported_mac, who->mac)))) {
        want->suppressed++;
        count(COUNT_SUPPRESSED);
        return;
    }
    struct event out = {.at_ns = now, .vlan = at->vlan, .family = at->family, .how = how, .direction = direction};
    __builtin_memcpy(out.address, at->address, 16);
    __builtin_memcpy(out.mac, who->mac, 6);
    out.suppressed = want->suppressed;
    if (events.ringbuf_output(&out, sizeof(out), BPF_RB_FORCE_WAKEUP)) {
        count(COUNT_LOST);
        return;
    }
    count(COUNT_EVENTS);
    want->suppressed = 0;
    want->reported_ns = now;
    __builtin_memcpy(want->reported_mac, who->mac, 6);
}

static __always_inline void arp(struct __sk_buff *skb, u32 offset, u16 vlan, u8 direction) {
    u8 packet[28];
    if (bpf_skb_load_bytes(skb, offset, packet, sizeof(packet)))
        return;
    // Ethernet and IPv4 only: hardware type 1, protocol 0x0800, lengths 6 and 4.
    if (packet[0] || packet[1] != 1 || packet[2] != 8 || packet[3] || packet[4] != 6 || packet[5] != 4 || packet[6])
        return;
    if (packet[7] != 1 && packet[7] != 2)
        return;
    struct where at = {.vlan = vlan, .family = 4};
    struct mac_key who = {};
    __builtin_memcpy(who.mac, packet + 8, 6);
    if (packet[14] | packet[15] | packet[16] | packet[17]) {
        __builtin_memcpy(at.address, packet + 14, 4);
        seen(&at, &who, packet[7] == 2 ? HOW_ANSWER : HOW_CLAIM, direction);
    } else if (packet[7] == 1) {
        __builtin_memcpy(at.address, packet + 24, 4);
        seen(&at, &who, HOW_PROBE, direction);
    }
}

static __always_inline void neighbour(struct __sk_buff *skb, u32 offset, u16 vlan, u8 direction) {
    u8 packet[64]; // IPv6 header (40), then ICMPv6: type, code, checksum, flags, target
    if (bpf_skb_load_bytes(skb, offset, packet, sizeof(packet)))
        return;
    // RFC 4861 section 7.1: hop limit 255 and code 0, or the packet came from beyond the link.
    if (packet[0] >> 4 != 6 || packet[6] != 58 || packet[7] != 255 || packet[41])
        return;
    struct where at = {.vlan = vlan, .family = 6};
    struct mac_key who = {};
    if (bpf_skb_load_bytes(skb, 6, who.mac, 6))
        return;
    if (packet[40] == 136) {
        __builtin_memcpy(at.address, packet + 48, 16);
        seen(&at, &who, packet[44] & 0x20 ? HOW_CLAIM : HOW_ANSWER, direction);
    } else if (packet[40] == 135) {
        u64 source[2];
        __builtin_memcpy(source, packet + 8, 16);
        if (source[0] | source[1]) {
            __builtin_memcpy(at.address, packet + 8, 16);
            seen(&at, &who, HOW_CLAIM, direction);
        } else {
            __builtin_memcpy(at.address, packet + 48, 16);
            seen(&at, &who, HOW_PROBE, direction);
        }
    }
}

static __always_inline int inspect(struct __sk_buff *skb, u8 direction) {
    u8 type[2];
    u32 offset = ETH_HLEN;
    u16 vlan = 0;
    // The kernel lifts an outer tag into metadata before ingress; on egress it may still be in the frame.
    if (skb->vlan_present)
        vlan = skb->vlan_tci & 0xfff;
    if (bpf_skb_load_bytes(skb, 12, type, 2))
        return TC_ACT_UNSPEC;
    if ((type[0] == 0x81 && type[1] == 0x00) || (type[0] == 0x88 && type[1] == 0xa8)) {
        u8 tag[4];
        if (skb->vlan_present || bpf_skb_load_bytes(skb, 14, tag, 4))
            return TC_ACT_UNSPEC; // two tags: another network's frame
        vlan = (tag[0] & 0x0f) << 8 | tag[1];
        type[0] = tag[2];
        type[1] = tag[3];
        offset += 4;
    }
    if (type[0] == 0x08 && type[1] == 0x06)
        arp(skb, offset, vlan, direction);
    else if (type[0] == 0x86 && type[1] == 0xdd)
        neighbour(skb, offset, vlan, direction);
    return TC_ACT_UNSPEC;
}

int nephila_ingress(struct __sk_buff *skb) {
    return inspect(skb, INGRESS);
}

int nephila_egress(struct __sk_buff *skb) {
    return inspect(skb, EGRESS);
}
