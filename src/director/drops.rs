//! For which VIP a dropped packet is counted, beside the total of its reason.
//!
//! The VIP of its flow, or of the flow that an ICMP error quotes; of a backend's packet, the backend's. A
//! packet that names no port is counted for a VIP only where no other one has its address. What is malformed
//! or addressed to no VIP is counted for none.

use super::indices::{BackendIndex, VipSeat};
use super::{Director, DropReason};
use crate::packet::{Icmp, Packet, Transport};

impl Director {
    /// Counts a packet that was to leave for a backend, and did not.
    pub fn count_unsent(&self, backend: BackendIndex, reason: DropReason) {
        self.counters
            .count_drops(self.seat_behind(backend), reason, 1);
    }

    /// Counts a packet, whose bytes these are, that the director's answer did not leave for.
    pub fn count_unanswered(&self, bytes: &[u8], reason: DropReason) {
        let packet = Packet::parse(bytes).ok();
        let vip = packet.and_then(|packet| self.seat_for(&packet, reason));
        self.counters.count_drops(vip, reason, 1);
    }

    /// The VIP that a packet dropped for `reason` is counted for.
    pub(super) fn seat_for(&self, packet: &Packet<'_>, reason: DropReason) -> Option<VipSeat> {
        if matches!(reason, DropReason::NoVip | DropReason::Malformed) {
            return None;
        }
        let quoted = || match packet.transport() {
            Ok(Transport::Icmp(Icmp::Error(quoted))) => quoted.flow(),
            Ok(Transport::Tcp { .. } | Transport::Udp { .. } | Transport::Icmp(_))
            | Ok(Transport::Other(_))
            | Err(_) => None,
        };
        let snapshot = &self.snapshot;
        let flow = packet.flow().or_else(quoted);
        let of_flow = flow.and_then(|flow| snapshot.find_vip(&flow));
        let vip = of_flow.or_else(|| snapshot.only_vip_at(packet.destination()));
        Some(vip?.seat)
    }

    /// The VIP that a backend serves.
    pub(super) fn seat_behind(&self, backend: BackendIndex) -> Option<VipSeat> {
        let lane = self.snapshot.lane(backend)?;
        Some(self.snapshot.vip(lane.vip).seat)
    }
}

#[cfg(test)]
mod tests;
