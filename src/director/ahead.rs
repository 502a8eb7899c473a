//! The first stages of a burst: what its packets say, and where the tables know of it.
//!
//! Each stage is one loop over one array and reads one table for all packets, so that the cache misses of one
//! packet overlap with those of the others; decided one by one, each would wait for its own. Nothing is decided
//! here: when the first packet of a burst is, what was found for the others is a hint.

use std::hint;

use super::Director;
use super::flow_table::{FlowEvent, Sought};
use super::indices::BackendIndex;
use crate::packet::{BURST, Burst, Meta, Packet, Segmentation, Transport};

/// What the stages found, by frame.
#[derive(Debug)]
pub(super) struct Ahead {
    segments: Vec<Option<Segment>>,
    /// The head of each packet's bucket.
    heads: Vec<u32>,
    found: Vec<Option<(u32, BackendIndex)>>,
}

/// A whole packet of TCP or UDP whose ports the kernel's hash sees: the rule, and all that it takes to decide about one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) sought: Sought,
    pub(super) event: FlowEvent,
    pub(super) meta: Meta,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            segments: Vec::with_capacity(BURST),
            heads: Vec::with_capacity(BURST),
            found: Vec::with_capacity(BURST),
        }
    }
}

impl Ahead {
    /// The packet in a frame, if it is a segment, and where its flow's entry was.
    pub(super) fn segment(&self, frame: usize) -> Option<(Segment, Option<u32>)> {
        let segment = (*self.segments.get(frame)?)?;
        let hint = self.found.get(frame).copied().flatten();
        Some((segment, hint.map(|(at, _)| at)))
    }
}

impl Director {
    /// Parses all packets, then looks all their flows up.
    pub(super) fn look_ahead(&mut self, burst: &Burst) {
        let flows = &self.flows;
        let Ahead {
            segments,
            heads,
            found,
        } = &mut self.ahead;
        segments.clear();
        segments.extend((0..burst.len()).map(|frame| {
            let (key, event, meta) = read(burst.packet(frame), burst.segmentation(frame))?;
            Some(Segment {
                sought: flows.seek(&key),
                event,
                meta,
            })
        }));
        heads.clear();
        heads.extend(segments.iter().map(|segment| {
            let head = segment.as_ref().map(|segment| flows.head(&segment.sought));
            head.unwrap_or_default()
        }));
        found.clear();
        found.extend(heads.iter().zip(&*segments).map(|(&head, segment)| {
            let sought = &segment.as_ref()?.sought;
            flows.follow(head, sought)
        }));
        for &(_, backend) in found.iter().flatten() {
            hint::black_box(self.snapshot.lane(backend).map(|lane| lane.takes));
        }
    }
}

/// What such a packet says; all others are read when they are decided.
fn read(
    bytes: &[u8],
    segmentation: Option<Segmentation>,
) -> Option<(crate::packet::FlowKey, FlowEvent, Meta)> {
    let packet = Packet::parse(bytes).ok()?.segmented(segmentation);
    if packet.hides_ports() {
        return None;
    }
    match packet.transport().ok()? {
        Transport::Tcp { key, flags } => Some((key, FlowEvent::Tcp(flags), packet.meta())),
        Transport::Udp { key } => Some((key, FlowEvent::Udp, packet.meta())),
        Transport::Icmp(_) | Transport::Other(_) => None,
    }
}
