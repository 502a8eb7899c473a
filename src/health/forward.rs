//! From the probe device to a backend: the outer header of the very backend that a probe is for, written by the
//! same code as that of clients' packets, over the same kind of egress.

use std::io;

use crate::director::{BackendIndex, Snapshot};
use crate::io::egress::{Egress, SendError, Sent};
use crate::io::ingress::{Ingress, Reading};
use crate::packet::{Burst, Entropy, FlowKey, Outgoing, Packet, Piece};

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
}

impl<E: Egress> Forwarder<E> {
    /// One for packets of up to `longest` bytes.
    pub(super) fn new(egress: E, longest: usize) -> Self {
        Self {
            egress,
            burst: Burst::new(longest),
            outgoing: Vec::new(),
            flows: Vec::new(),
            results: Vec::new(),
            identification: 0,
        }
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
        failed: impl FnMut(&FlowKey, SendError),
    ) -> io::Result<Reading> {
        self.begin();
        let reading = ingress.fill(&mut self.burst)?;
        for frame in 0..self.burst.len() {
            self.take(frame, snapshot, &mut way);
        }
        self.send(snapshot, failed);
        Ok(reading)
    }

    /// Sends one packet that this process made.
    pub(super) fn send_made(
        &mut self,
        packet: &[u8],
        backend: BackendIndex,
        snapshot: &Snapshot,
        failed: impl FnMut(&FlowKey, SendError),
    ) {
        self.begin();
        self.burst.fit(packet.len());
        let Some(room) = self.burst.spare() else { return };
        let Some(room) = room.get_mut(..packet.len()) else { return };
        room.copy_from_slice(packet);
        self.burst.push(packet.len());
        self.take(0, snapshot, &mut |_, _| Some(backend));
        self.send(snapshot, failed);
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
        self.identification = self.identification.wrapping_add(1);
        self.outgoing.push(Outgoing {
            frame,
            piece: Piece::Whole,
            tunnel: backend.tunnel(),
            meta: packet.meta(),
            entropy: Entropy {
                flow_hash: snapshot.flow_hash(&flow),
                identification: self.identification,
            },
        });
        self.flows.push(flow);
    }

    fn send(&mut self, snapshot: &Snapshot, mut failed: impl FnMut(&FlowKey, SendError)) {
        self.results.clear();
        self.results.resize(self.outgoing.len(), Ok(()));
        self.egress
            .send(&mut self.burst, &mut self.outgoing, snapshot, &mut self.results);
        for (flow, sent) in self.flows.iter().zip(&self.results) {
            if let Err(error) = sent {
                failed(flow, *error);
            }
        }
    }
}
