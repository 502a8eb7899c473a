//! The first stages of a burst: what its packets say, and where the tables know of it.
//!
//! Each stage is one loop over one array and reads one table for all packets, so that the cache misses of one
//! packet overlap with those of the others; decided one by one, each would wait for its own. Nothing is decided
//! here: when the first packet of a burst is, what was found for the others is a hint.

use std::hint;

use super::Director;
use super::flow_table::{FlowEvent, FlowTable, NONE, Sought};
use super::indices::BackendIndex;
use crate::packet::{Burst, Meta, Segment, Segmentation, Version};

/// What the stages found of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glance {
    /// Whether it is a whole packet of TCP or UDP: the rule, and then all that follows is of it. All others
    /// are read when they are decided.
    pub(super) is_segment: bool,
    pub(super) event: FlowEvent,
    pub(super) meta: Meta,
    pub(super) sought: Sought,
    /// The head of its flow's bucket, then the place of the entry; [`NONE`] where there is none.
    pub(super) at: u32,
    backend: BackendIndex,
}

impl Default for Glance {
    fn default() -> Self {
        Self {
            is_segment: false,
            event: FlowEvent::Udp,
            meta: Meta {
                version: Version::V4,
                length: 0,
                traffic_class: 0,
                dont_fragment: false,
                segmentation: None,
            },
            sought: Sought::default(),
            at: NONE,
            backend: BackendIndex::new(0),
        }
    }
}

impl Glance {
    /// Field by field: a packet's few words go from its bytes into the glance, and nowhere in between.
    fn read(&mut self, bytes: &[u8], segmentation: Option<Segmentation>, flows: &FlowTable) {
        let segment = Segment::read(bytes);
        self.is_segment = segment.is_some();
        self.at = NONE;
        let Some(Segment { flow, flags, meta }) = segment else {
            return;
        };
        self.event = flags.map_or(FlowEvent::Udp, FlowEvent::Tcp);
        self.meta = meta;
        self.meta.segmentation = segmentation;
        self.sought = flows.seek_packed(flow);
    }
}

impl Director {
    /// Parses all packets, then looks all their flows up.
    pub(super) fn look_ahead(&mut self, burst: &Burst) {
        let (glances, flows) = (&mut self.ahead, &self.flows);
        if glances.len() < burst.len() {
            glances.resize(burst.len(), Glance::default());
        }
        let glances = &mut glances[..burst.len()];
        for (frame, glance) in glances.iter_mut().enumerate() {
            glance.read(burst.packet(frame), burst.segmentation(frame), flows);
        }
        for glance in glances.iter_mut().filter(|glance| glance.is_segment) {
            glance.at = flows.head(&glance.sought);
        }
        for glance in glances.iter_mut().filter(|glance| glance.is_segment) {
            (glance.at, glance.backend) = flows.follow(glance.at, &glance.sought);
        }
        let mut touched = 0;
        for glance in glances.iter().filter(|glance| glance.at != NONE) {
            touched ^= self
                .snapshot
                .lane(glance.backend)
                .map_or(0, |lane| lane.takes as u8);
        }
        hint::black_box(touched); // or the loop would be left out
    }
}
