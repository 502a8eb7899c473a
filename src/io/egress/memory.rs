//! Egress into memory: what tests, benches and a replay look at.

use super::{Egress, Sent, write_header};
use crate::packet::{Burst, Outgoing, Tunnels};

/// Whole outer packets, in the order in which they left, and the frames that they were in.
#[derive(Debug, Default)]
pub struct MemoryEgress {
    /// Frame and bytes of each.
    pub packets: Vec<(usize, Vec<u8>)>,
}

impl Egress for MemoryEgress {
    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    ) {
        for (packet, result) in packets.iter().zip(results) {
            *result = write_header(burst, packet, tunnels).map(|header| {
                let outer = burst.with_header(packet, header.overhead).concat();
                self.packets.push((packet.frame, outer));
            });
        }
    }
}
