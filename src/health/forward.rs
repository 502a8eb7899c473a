//! From the probe device to a backend: the outer header of the very backend that a probe is for, written by the
//! same code as that of clients' packets, over the same kind of egress.

use std::io;

use crate::director::{BackendIndex, Snapshot};
use crate::io::egress::{Egress, SendError, Sent};
use crate::io::ingress::{Ingress, Reading};
use crate::io::sys::KernelPathMtu;
use crate::packet::checksum;
use crate::packet::{Burst, Entropy, FlowKey, Meta, Outgoing, Packet, Piece};

/// Encapsulates and sends.
#[derive(Debug)]
pub(super) struct Forwarder<E> {
    egress: E,
    burst: Burst,
    outgoing: Vec<Outgoing>,
    flows: Vec<FlowKey>,
    results: Vec<Sent>,
    /// Of the next outer packet that may be fragmented.
    identification: u16,
    /// The TOS by which packets found the device, which they lose.
    tos: u8,
}

impl<E: Egress> Forwarder<E> {
    /// One for packets of up to `longest` bytes.
    pub(super) fn new(egress: E, longest: usize, tos: u8) -> Self {
        Self {
            egress,
            burst: Burst::new(longest),
            outgoing: Vec::new(),
            flows: Vec::new(),
            results: Vec::new(),
            identification: 0,
            tos,
        }
    }

    /// What the kernel refuses to send as too long.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn limit_by(&mut self, limit: KernelPathMtu) -> io::Result<()> {
        self.egress.limit_by(limit)
    }

    /// Makes room for packets of up to `longest` bytes.
    pub(super) fn fit(&mut self, longest: usize) {
        self.burst.fit(longest);
    }

    /// Reads a burst and sends each packet to the backend that `way` names for it; one without is dropped. `failed`
    /// hears of what did not leave.
    ///
    /// # Errors
    /// The ingress cannot be read again.
    pub(super) fn turn(
        &mut self,
        ingress: &mut impl Ingress,
        snapshot: &Snapshot,
        mut way: impl FnMut(&FlowKey, &Packet<'_>) -> Option<BackendIndex>,
        mut failed: impl FnMut(&FlowKey, SendError),
    ) -> io::Result<Reading> {
        self.begin();
        let reading = ingress.fill(&mut self.burst)?;
        for frame in 0..self.burst.len() {
            if self.tos != 0 {
                clear_tos(self.burst.packet_mut(frame));
            }
            self.take(frame, snapshot, &mut way);
        }
        self.send(snapshot, |flow, error| {
            flow.into_iter().for_each(|flow| failed(flow, error))
        });
        Ok(reading)
    }

    /// Sends one packet that this process made.
    pub(super) fn send_made(
        &mut self,
        packet: &[u8],
        backend: BackendIndex,
        snapshot: &Snapshot,
        mut failed: impl FnMut(SendError),
    ) {
        self.begin();
        self.burst.fit(packet.len());
        let Some(room) = self.burst.spare() else {
            return;
        };
        let Some(room) = room.get_mut(..packet.len()) else {
            return;
        };
        room.copy_from_slice(packet);
        self.burst.push(packet.len());
        let Ok(packet) = Packet::parse(self.burst.packet(0)) else {
            return;
        };
        // As a worker does with what has no ports.
        let hash = match packet.flow() {
            Some(flow) => snapshot.flow_hash(&flow),
            None => snapshot.client_hash(packet.source()),
        };
        let meta = packet.meta();
        self.leave(0, backend, meta, hash);
        self.send(snapshot, |_, error| failed(error));
    }

    fn begin(&mut self) {
        self.burst.clear();
        self.outgoing.clear();
        self.flows.clear();
    }

    fn take(
        &mut self,
        frame: usize,
        snapshot: &Snapshot,
        way: &mut impl FnMut(&FlowKey, &Packet<'_>) -> Option<BackendIndex>,
    ) {
        let Ok(packet) = Packet::parse(self.burst.packet(frame)) else {
            return;
        };
        let Some(flow) = packet.flow() else { return };
        let Some(backend) = way(&flow, &packet) else {
            return;
        };
        let meta = packet.meta();
        self.leave(frame, backend, meta, snapshot.flow_hash(&flow));
        self.flows.push(flow);
    }

    fn leave(&mut self, frame: usize, backend: BackendIndex, meta: Meta, flow_hash: u64) {
        self.identification = self.identification.wrapping_add(1);
        self.outgoing.push(Outgoing {
            frame,
            piece: Piece::Whole,
            tunnel: backend.tunnel(),
            meta,
            entropy: Entropy {
                flow_hash,
                identification: self.identification,
            },
        });
    }

    fn send(&mut self, snapshot: &Snapshot, mut failed: impl FnMut(Option<&FlowKey>, SendError)) {
        self.results.clear();
        self.results.resize(self.outgoing.len(), Ok(()));
        self.egress.send(
            &mut self.burst,
            &mut self.outgoing,
            snapshot,
            &mut self.results,
        );
        for (position, sent) in self.results.iter().enumerate() {
            if let Err(error) = sent {
                failed(self.flows.get(position), *error);
            }
        }
    }
}

/// Of an IPv4 packet; others stay as they are.
fn clear_tos(packet: &mut [u8]) {
    let Some([first, tos, rest @ ..]) = packet.first_chunk_mut::<12>() else {
        return;
    };
    if *first >> 4 != 4 {
        return;
    }
    let old = u16::from_be_bytes([*first, *tos]);
    *tos = 0;
    let sum = checksum::update(
        u16::from_be_bytes([rest[8], rest[9]]),
        old,
        u16::from_be_bytes([*first, 0]),
    );
    [rest[8], rest[9]] = sum.to_be_bytes();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::daemon::pipeline::MemoryPipeline;
    use crate::director::{Director, Roster, Seat, Timestamp};
    use crate::io::egress::MemoryEgress;
    use crate::io::ingress::MemoryIngress;
    use crate::packet::Protocol;
    use crate::site::{Paths, taken_for_healthy};

    /// A director of one VIP with one backend.
    fn snapshot(vip: &str, backend: &str, encap: &str) -> Arc<Snapshot> {
        let text = format!(
            "[director.encap]\n{encap}\n[[vip]]\naddress = \"{vip}\"\nbackend = [{{ address = \"{backend}\" }}]\n"
        );
        let config = Config::parse("f", &text).unwrap();
        let paths = Paths::without_routes(&config);
        Arc::new(
            paths
                .snapshot(&config, &mut Roster::default(), taken_for_healthy)
                .unwrap(),
        )
    }

    /// What a client sends and what a probe sends become the same packets: outer source, entropy, TTL and all.
    #[test]
    fn probes_leave_as_clients_packets_do() {
        for (vip, backend, source, encap) in [
            ("10.0.0.100", "10.0.1.11", "10.0.1.2", "kind = \"ipip\""),
            (
                "10.0.0.100",
                "10.0.1.11",
                "10.0.1.2",
                "source = \"172.16.0.0/16\"\nttl = 7",
            ),
            ("10.0.0.100", "2001:db8:1::11", "10.0.1.2", "kind = \"gue\""),
            (
                "2001:db8::100",
                "10.0.1.11",
                "2001:db8::2",
                "kind = \"gue\"\nsource = \"10.0.0.9\"",
            ),
            (
                "2001:db8::100",
                "2001:db8:1::11",
                "2001:db8::2",
                "kind = \"ipip\"",
            ),
        ] {
            let snapshot = snapshot(vip, backend, encap);
            let packets: Vec<_> = (40_000..40_050)
                .map(|port| {
                    let flow = FlowKey {
                        source: source.parse().unwrap(),
                        destination: vip.parse().unwrap(),
                        source_port: port,
                        destination_port: 80,
                        protocol: Protocol::Tcp,
                    };
                    let mut packet = super::super::reset::reset_packet(&flow, 1).unwrap();
                    if vip.contains('.') {
                        packet[6] |= 0x40; // DF, as the kernel's TCP sets it
                        packet[1] = 0xb8;
                        let sum =
                            checksum::checksum(&[&packet[..10], &[0, 0], &packet[12..20]].concat());
                        packet[10..12].copy_from_slice(&sum.to_be_bytes());
                    }
                    packet
                })
                .collect();
            let seat = Seat {
                worker: 0,
                workers: 1,
                seed: [3; 4],
            };
            let mut pipeline =
                MemoryPipeline::in_memory(Director::new(Arc::clone(&snapshot), &seat));
            let data: Vec<_> = packets
                .iter()
                .flat_map(|packet| pipeline.pass(packet, Timestamp::START).emitted)
                .collect();
            let (index, _) = snapshot.backends().next().unwrap();
            let mut forwarder = Forwarder::new(MemoryEgress::default(), 1500, 0);
            let mut ingress = MemoryIngress::default();
            ingress.packets.extend(packets);
            let way = |_: &FlowKey, _: &Packet<'_>| Some(index);
            let failed = |_: &FlowKey, error| panic!("{error}");
            let reading = forwarder
                .turn(&mut ingress, &snapshot, way, failed)
                .unwrap();
            assert_eq!(reading, Reading::Empty);
            let probes: Vec<_> = forwarder
                .egress
                .packets
                .drain(..)
                .map(|(_, bytes)| bytes)
                .collect();
            assert_eq!(data.len(), 50);
            assert_eq!(probes, data, "{vip} {backend} {encap}");
        }
    }

    #[test]
    fn the_tos_is_cleared() {
        let flow = FlowKey {
            source: "10.0.1.2".parse().unwrap(),
            destination: "10.0.0.100".parse().unwrap(),
            source_port: 1,
            destination_port: 2,
            protocol: Protocol::Tcp,
        };
        let plain = super::super::reset::reset_packet(&flow, 1).unwrap();
        let mut marked = plain.clone();
        marked[1] = 0x10;
        let sum = checksum::checksum(&[&marked[..10], &[0, 0], &marked[12..20]].concat());
        marked[10..12].copy_from_slice(&sum.to_be_bytes());
        clear_tos(&mut marked);
        assert_eq!(marked, plain);
        clear_tos(&mut [0x45; 3]);
    }
}
