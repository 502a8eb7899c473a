//! What a vector is, and how a table of them is written down.

use std::net::IpAddr;
use std::time::Duration;

use crate::wire::Tunnel;

/// One packet, and what must become of it after those before it.
pub(crate) struct Vector {
    pub(crate) description: String,
    /// Time since the vector before.
    pub(crate) pause: Duration,
    pub(crate) input: Vec<u8>,
    pub(crate) verdict: &'static str,
    pub(crate) reason: Option<&'static str>,
    /// The backend, and all packets that leave on account of this one. More than one where the ring
    /// chooses: vectors of one group must be alike in their choice.
    pub(crate) outputs: Vec<(Option<IpAddr>, Vec<Vec<u8>>)>,
    pub(crate) group: Option<&'static str>,
}

/// A configuration and the packets for it, in order.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) site: &'static str,
    pub(crate) vectors: Vec<Vector>,
    pause: Duration,
    next_identification: u16,
}

impl Table {
    pub(crate) const fn new(name: &'static str, site: &'static str) -> Self {
        Self {
            name,
            site,
            vectors: Vec::new(),
            pause: Duration::ZERO,
            next_identification: 1,
        }
    }

    /// Time passes before the next vector.
    pub(crate) fn pause(&mut self, millis: u64) {
        self.pause = Duration::from_millis(millis);
    }

    /// Goes to its only possible backend.
    pub(crate) fn forward(&mut self, description: &str, input: Vec<u8>, tunnel: Tunnel) {
        self.release(description, input, tunnel, &[]);
    }

    /// Goes to its backend, and so do the fragments that waited for it, after it.
    pub(crate) fn release(
        &mut self,
        description: &str,
        input: Vec<u8>,
        tunnel: Tunnel,
        waited: &[&Vec<u8>],
    ) {
        let mut output = vec![self.around(&tunnel, &input)];
        output.extend(waited.iter().map(|inner| self.around(&tunnel, inner)));
        let outputs = vec![(Some(tunnel.backend), output)];
        self.push(description, input, "forward", None, outputs);
    }

    /// Goes to one of several backends, the same one as the others of its group.
    pub(crate) fn forward_as_group(
        &mut self,
        description: &str,
        input: Vec<u8>,
        group: &'static str,
        tunnels: &[Tunnel],
    ) {
        let output = |tunnel: &Tunnel| (Some(tunnel.backend), vec![tunnel.around(&input, 0)]);
        let outputs = tunnels.iter().map(output).collect();
        self.push(description, input, "forward", None, outputs);
        self.vectors.last_mut().unwrap().group = Some(group);
    }

    pub(crate) fn reply(&mut self, description: &str, input: Vec<u8>, answer: Vec<u8>) {
        self.reply_with(description, input, vec![answer]);
    }

    /// Answered by several packets.
    pub(crate) fn reply_with(&mut self, description: &str, input: Vec<u8>, answer: Vec<Vec<u8>>) {
        self.push(description, input, "reply", None, vec![(None, answer)]);
    }

    pub(crate) fn hold(&mut self, description: &str, input: Vec<u8>) {
        self.push(description, input, "hold", None, vec![(None, vec![])]);
    }

    pub(crate) fn drop(&mut self, description: &str, input: Vec<u8>, reason: &'static str) {
        let nothing = vec![(None, vec![])];
        self.push(description, input, "drop", Some(reason), nothing);
    }

    fn push(
        &mut self,
        description: &str,
        input: Vec<u8>,
        verdict: &'static str,
        reason: Option<&'static str>,
        outputs: Vec<(Option<IpAddr>, Vec<Vec<u8>>)>,
    ) {
        self.vectors.push(Vector {
            description: description.to_owned(),
            pause: std::mem::take(&mut self.pause),
            input,
            verdict,
            reason,
            outputs,
            group: None,
        });
    }

    /// Outer identifications count up from 1, over the packets that may be fragmented.
    fn around(&mut self, tunnel: &Tunnel, inner: &[u8]) -> Vec<u8> {
        let outer = tunnel.around(inner, self.next_identification);
        if inner[0] >> 4 == 4 && inner[6] & 0x40 == 0 {
            self.next_identification += 1;
        }
        outer
    }
}
