//! The reset that ends a connection whose SYN alone was sent: what the backend keeps for it is freed at once, and not
//! after a minute of retransmissions.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};
use log::trace;

use super::engine::Engine;
use crate::packet::FlowKey;

/// TTL or hop limit.
const TTL: u8 = 64;

impl Engine {
    /// Ends all that is under way without a result.
    pub(super) fn call_off_all(&mut self) {
        // A SYN that waits to be read would follow its reset. Where the device is gone, the next turn says so.
        self.forward().ok();
        let now = self.now();
        for number in self.flights.numbers() {
            self.call_off(number);
            self.end(number, now);
        }
        self.forward().ok(); // the kernel's own resets
    }

    /// Frees what the backend may have kept for a flight that is not waited for any longer. The kernel resets a
    /// connection when its socket is closed, but not one whose answer did not come.
    pub(super) fn call_off(&mut self, number: usize) {
        let Some(flight) = self.flights.get(number) else {
            return;
        };
        flight.abort();
        let half_open = flight.sequence.filter(|_| !flight.is_connected());
        let (Some(sequence), Some(flow)) = (half_open, flight.flow) else {
            return;
        };
        if let Some(packet) = reset_packet(&flow, sequence.wrapping_add(1)) {
            let snapshot = (self.snapshots)();
            self.forwarder
                .send_made(&packet, flight.backend, &snapshot, |error| {
                    trace!("reset not sent: {error}")
                });
        }
    }
}

/// A reset in the flow, with that sequence number.
pub(super) fn reset_packet(flow: &FlowKey, sequence: u32) -> Option<Vec<u8>> {
    let mut tcp = TcpHeader::new(flow.source_port, flow.destination_port, sequence, 0);
    tcp.rst = true;
    match (flow.source, flow.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = tcp.header_len_u16();
            let mut ip =
                Ipv4Header::new(length, TTL, IpNumber::TCP, from.octets(), to.octets()).ok()?;
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).ok()?;
            Some([&ip.to_bytes()[..], &tcp.to_bytes()[..]].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: tcp.header_len_u16(),
                next_header: IpNumber::TCP,
                hop_limit: TTL,
                source: from.octets(),
                destination: to.octets(),
            };
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, &[]).ok()?;
            Some([&ip.to_bytes()[..], &tcp.to_bytes()[..]].concat())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, Protocol, Transport};

    #[test]
    fn a_reset_of_either_family() {
        for (source, destination) in [("10.0.1.2", "10.0.0.100"), ("2001:db8::2", "2001:db8::100")]
        {
            let flow = FlowKey {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                source_port: 40_000,
                destination_port: 80,
                protocol: Protocol::Tcp,
            };
            let bytes = reset_packet(&flow, 7).unwrap();
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!(usize::from(packet.meta().length), bytes.len());
            let Ok(Transport::Tcp { key, flags }) = packet.transport() else {
                panic!("{packet:?}");
            };
            assert_eq!((key, flags.rst, flags.opens), (flow, true, false));
            assert_eq!(packet.payload()[4..8], [0, 0, 0, 7]);
            if flow.source.is_ipv4() {
                let sum = crate::packet::checksum::checksum(&bytes[..20]);
                assert_eq!(sum, 0, "of the IP header");
            }
        }
    }
}
