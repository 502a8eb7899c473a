//! The packets of a flow by what they mean: where a request was seen, and what answered it.

use super::flow::{is_mere_data, opens};
use super::observation::{Kind, Observation, Segment, Sighting, Way};

/// What was seen of a flow; of each kind the first.
#[derive(Debug, Default)]
pub(super) struct Trail<'a> {
    /// A request in its tunnel, coming in.
    pub(super) outer: Option<&'a Sighting>,
    /// A request coming in by another device than T without a tunnel around it.
    pub(super) beside: Option<&'a Sighting>,
    /// A request out of T.
    pub(super) inner: Option<&'a Sighting>,
    /// A request that leaves again.
    pub(super) passed_on: Option<&'a Sighting>,
    /// An ICMP error of this machine about the tunnel's packet.
    pub(super) tunnel_error: Option<&'a Sighting>,
    /// An ICMP error to the client.
    pub(super) error: Option<&'a Sighting>,
    /// Any reply into T.
    pub(super) reply_into_tunnel: Option<&'a Sighting>,
    /// A RST from V by another device.
    pub(super) reset: Option<&'a Sighting>,
    /// Any other reply from V by another device.
    pub(super) reply: Option<&'a Sighting>,
    /// A reply from another address than V.
    pub(super) reply_of_other: Option<&'a Sighting>,
    /// After the reply, what only a client sends that has it.
    pub(super) goes_on: Option<&'a Sighting>,
    /// After that, what only a service sends that got it.
    pub(super) acknowledged: Option<&'a Sighting>,
    /// After the reply, the first request or the reply again.
    pub(super) again: Option<&'a Sighting>,
    /// After the client went on, the reply again.
    pub(super) again_after: Option<&'a Sighting>,
    /// The first packet of all.
    pub(super) first: Option<&'a Sighting>,
}

impl<'a> Trail<'a> {
    pub(super) fn of(observation: &'a Observation) -> Self {
        let mut trail = Self::default();
        for sighting in &observation.seen {
            trail.first.get_or_insert(sighting);
            match (&sighting.packet.kind, sighting.way) {
                (Kind::Error { .. }, _) => trail.add_error(sighting, observation),
                (_, Way::In) => trail.add_incoming(sighting, observation),
                (_, Way::Out) => trail.add_outgoing(sighting, observation),
            }
        }
        trail
    }

    /// Whether the flow begins with what begins a flow, rather than in its midst.
    pub(super) fn begins(&self) -> bool {
        self.first.is_some_and(|first| opens(&first.packet.kind))
    }

    fn add_error(&mut self, sighting: &'a Sighting, observation: &Observation) {
        let client = observation.flow.map(|(client, _)| client);
        if sighting.way == Way::In {
            return; // of a router, about the reply
        }
        if Some(sighting.packet.destination) == client {
            self.error.get_or_insert(sighting);
        } else {
            self.tunnel_error.get_or_insert(sighting);
        }
    }

    fn add_incoming(&mut self, sighting: &'a Sighting, observation: &Observation) {
        if sighting.packet.destination != observation.vip {
            return;
        }
        if self.reply.is_some() {
            if opens(&sighting.packet.kind) {
                self.again.get_or_insert(sighting);
            } else {
                self.goes_on.get_or_insert(sighting);
            }
        }
        if sighting.outer.is_some() {
            self.outer.get_or_insert(sighting);
        } else if self.is_out_of_tunnel(sighting, observation) {
            self.inner.get_or_insert(sighting);
        } else {
            self.beside.get_or_insert(sighting);
        }
    }

    /// Where T is not known, it is the device that shows the packet after it was seen in its tunnel.
    fn is_out_of_tunnel(&self, sighting: &Sighting, observation: &Observation) -> bool {
        match &observation.tunnel {
            Some(tunnel) => *tunnel == sighting.device,
            None => self
                .outer
                .is_some_and(|outer| outer.device != sighting.device),
        }
    }

    fn add_outgoing(&mut self, sighting: &'a Sighting, observation: &Observation) {
        let packet = &sighting.packet;
        if sighting.outer.is_some() {
            return; // what T makes of a reply that was seen there
        }
        if packet.destination == observation.vip {
            self.passed_on.get_or_insert(sighting);
        } else if observation.tunnel.as_ref() == Some(&sighting.device) {
            self.reply_into_tunnel.get_or_insert(sighting);
        } else if packet.source != observation.vip {
            self.reply_of_other.get_or_insert(sighting);
        } else if is_reset(&packet.kind) {
            self.reset.get_or_insert(sighting);
        } else if let Some(first) = self.reply {
            if self.goes_on.is_some() && is_mere_data(&packet.kind) {
                self.acknowledged.get_or_insert(sighting);
            }
            let comes_again = first.packet == *packet && first.device == sighting.device;
            if comes_again && matches!(packet.kind, Kind::Tcp { .. }) {
                self.again.get_or_insert(sighting);
                if self.goes_on.is_some() {
                    self.again_after.get_or_insert(sighting);
                }
            }
        } else {
            self.reply = Some(sighting);
        }
    }
}

const fn is_reset(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Tcp {
            segment: Segment::Rst,
            ..
        }
    )
}
