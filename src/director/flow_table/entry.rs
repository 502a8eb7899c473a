//! A flow as the table keeps it: one cache line.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use crate::director::flow_class::{FlowClass, FlowEvent, Tick, Timeouts};
use crate::director::indices::BackendIndex;
use crate::packet::PackedFlow;

/// No entry; the end of a list or chain.
pub(in crate::director) const NONE: u32 = u32::MAX;

/// Of a flow's key; keyed, so that packets cannot be made to share a bucket.
pub(super) fn hash(key: &PackedFlow, state: &RandomState) -> u64 {
    let mut hasher = state.build_hasher();
    let [a, b, c, d] = key.addresses;
    let rest = u64::from(key.ports) << 32 | u64::from(key.kind);
    hasher.write_u128(u128::from(a) << 64 | u128::from(rest));
    if key.is_wide() {
        hasher.write_u128(u128::from(b) << 64 | u128::from(c));
        hasher.write_u64(d);
    }
    hasher.finish()
}

/// A flow, or a free place. All that a packet of a known flow reads and writes is here.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Entry {
    addresses: [u64; 4],
    ports: u32,
    kind: u8,
    pub(super) class: FlowClass,
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
        key: &PackedFlow,
        class: FlowClass,
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

    /// Whether it is of that flow: [`key`](Self::key) compared in place, and what IPv4 leaves zero not at all.
    #[inline]
    pub(super) fn is_of(&self, flow: &PackedFlow) -> bool {
        self.addresses[0] == flow.addresses[0]
            && self.ports == flow.ports
            && self.kind == flow.kind
            && (!flow.is_wide() || self.addresses[1..] == flow.addresses[1..])
    }

    /// Whether it expired, or the packet is a SYN that reuses the ports of a closed flow.
    #[inline]
    pub(super) fn is_over(&self, event: FlowEvent, now: Tick, timeouts: &Timeouts) -> bool {
        let reopens = self.class.is_closed() && event.opens();
        reopens || timeouts.is_over(self.class, now.since(self.last_used))
    }

    /// Notes a packet. Returns the class that it is to be filed in, where that has to be done anew.
    #[inline]
    pub(super) fn refresh(
        &mut self,
        event: FlowEvent,
        now: Tick,
        timeouts: &Timeouts,
    ) -> Option<FlowClass> {
        self.last_used = now;
        let (class, filed) = (self.class.after(event), now.since(self.filed));
        let is_filed = class == self.class && !timeouts.is_misfiled(class, filed);
        (!is_filed).then_some(class)
    }

    pub(super) const fn key(&self) -> PackedFlow {
        PackedFlow {
            addresses: self.addresses,
            ports: self.ports,
            kind: self.kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{FlowKey, Protocol};

    /// Keys that differ in one field, or only in the family of an address.
    #[test]
    fn keys_stay_apart() {
        let key = |source: &str, destination: &str, ports: (u16, u16), protocol| {
            PackedFlow::new(&FlowKey {
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
            assert_eq!(PackedFlow::new(&key.key()), *key);
            for other in &keys[..number] {
                assert_ne!(key, other);
                assert_ne!(hash(key, &state), hash(other, &state), "{key:?} {other:?}");
            }
        }
    }
}
