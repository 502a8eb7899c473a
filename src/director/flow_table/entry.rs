//! A flow as the table keeps it: one cache line.

use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ahash::RandomState;

use super::class::{Class, Tick};
use crate::director::indices::BackendIndex;
use crate::packet::{FlowKey, Protocol};

/// No entry; the end of a list or chain.
pub(super) const NONE: u32 = u32::MAX;

/// A [`FlowKey`] in 37 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedKey {
    /// Source and destination: both in the first word where both are IPv4.
    addresses: [u64; 4],
    ports: u32,
    /// The protocol's number, with [`SOURCE_V6`](Self::SOURCE_V6) and
    /// [`DESTINATION_V6`](Self::DESTINATION_V6).
    kind: u8,
}

impl PackedKey {
    const SOURCE_V6: u8 = 0x80;
    const DESTINATION_V6: u8 = 0x40;

    pub(super) fn new(key: &FlowKey) -> Self {
        let (addresses, family) = match (key.source, key.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let pair = join(source.to_bits(), destination.to_bits());
                ([pair, 0, 0, 0], 0)
            }
            (source, destination) => {
                let ((a, b), source_v6) = wide(source);
                let ((c, d), destination_v6) = wide(destination);
                let family = (u8::from(source_v6) * Self::SOURCE_V6)
                    | (u8::from(destination_v6) * Self::DESTINATION_V6);
                ([a, b, c, d], family)
            }
        };
        Self {
            addresses,
            ports: u32::from(key.source_port) << 16 | u32::from(key.destination_port),
            kind: key.protocol.number() | family,
        }
    }

    /// What was packed.
    pub(super) fn flow(&self) -> FlowKey {
        let [a, b, c, d] = self.addresses;
        let (source, destination) = if self.kind & (Self::SOURCE_V6 | Self::DESTINATION_V6) == 0 {
            let [source, destination] = halves(a);
            (v4(source), v4(destination))
        } else {
            let narrow = |(high, low), bit| match self.kind & bit {
                0 => v4(halves(low)[1]),
                _ => Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into(),
            };
            let source = narrow((a, b), Self::SOURCE_V6);
            (source, narrow((c, d), Self::DESTINATION_V6))
        };
        let [high, low] = [self.ports >> 16, self.ports & 0xffff];
        FlowKey {
            source,
            destination,
            source_port: u16::try_from(high).unwrap_or_default(),
            destination_port: u16::try_from(low).unwrap_or_default(),
            protocol: match self.kind & !(Self::SOURCE_V6 | Self::DESTINATION_V6) {
                6 => Protocol::Tcp,
                _ => Protocol::Udp,
            },
        }
    }

    pub(super) fn hash(&self, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        let [a, b, c, d] = self.addresses;
        let rest = join(self.ports, self.kind.into());
        hasher.write_u128(u128::from(a) << 64 | u128::from(rest));
        if self.kind & (Self::SOURCE_V6 | Self::DESTINATION_V6) != 0 {
            hasher.write_u128(u128::from(b) << 64 | u128::from(c));
            hasher.write_u64(d);
        }
        hasher.finish()
    }
}

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes)
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// An address in two words, and whether it is IPv6.
fn wide(address: IpAddr) -> ((u64, u64), bool) {
    match address {
        IpAddr::V4(address) => ((0, address.to_bits().into()), false),
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.segments().map(u64::from);
            let high = a << 48 | b << 32 | c << 16 | d;
            let low = e << 48 | f << 32 | g << 16 | h;
            ((high, low), true)
        }
    }
}

/// A flow, or a free place. All that a packet of a known flow reads and writes is here.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Entry {
    addresses: [u64; 4],
    ports: u32,
    kind: u8,
    pub(super) class: Class,
    /// Of the [services](crate::director::services) by which the backend was found to be of the flow's VIP.
    pub(super) generation: u16,
    pub(super) backend: BackendIndex,
    pub(super) last_used: Tick,
    /// When it became the newest of its class's list.
    pub(super) filed: Tick,
    /// The next entry of its bucket's chain, or the next free place.
    pub(super) next: u32,
    pub(super) newer: u32,
    pub(super) older: u32,
}

const _: () = assert!(size_of::<Entry>() == 64, "an entry is one cache line");

impl Entry {
    /// In no chain and no list yet.
    pub(super) const fn new(
        key: &PackedKey,
        class: Class,
        (backend, generation): (BackendIndex, u16),
        now: Tick,
    ) -> Self {
        Self {
            addresses: key.addresses,
            ports: key.ports,
            kind: key.kind,
            class,
            generation,
            backend,
            last_used: now,
            filed: now,
            next: NONE,
            newer: NONE,
            older: NONE,
        }
    }

    /// A free place has no flow's key.
    pub(super) const fn clear(&mut self) {
        self.kind = 0;
    }

    pub(super) const fn key(&self) -> PackedKey {
        PackedKey {
            addresses: self.addresses,
            ports: self.ports,
            kind: self.kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Protocol;

    /// Keys that differ in one field, or only in the family of an address.
    #[test]
    fn keys_stay_apart() {
        let key = |source: &str, destination: &str, ports: (u16, u16), protocol| {
            PackedKey::new(&FlowKey {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                source_port: ports.0,
                destination_port: ports.1,
                protocol,
            })
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let keys = [
            key("192.0.2.1", "203.0.113.10", (1, 2), tcp),
            key("192.0.2.1", "203.0.113.10", (1, 2), udp),
            key("192.0.2.1", "203.0.113.10", (2, 1), tcp),
            key("203.0.113.10", "192.0.2.1", (1, 2), tcp),
            key("2001:db8::1", "2001:db8::2", (1, 2), tcp),
            key("2001:db8::2", "2001:db8::1", (1, 2), tcp),
            key("2001:db8:0:1::1", "2001:db8::2", (1, 2), tcp),
            key("::c000:201", "::cb00:710a", (1, 2), tcp),
            key("192.0.2.1", "::cb00:710a", (1, 2), tcp),
            key("::c000:201", "203.0.113.10", (1, 2), tcp),
        ];
        let state = RandomState::with_seeds(1, 2, 3, 4);
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(PackedKey::new(&key.flow()), *key);
            for other in &keys[..number] {
                assert_ne!(key, other);
                assert_ne!(key.hash(&state), other.hash(&state), "{key:?} {other:?}");
            }
        }
    }
}
