//! Packets of a capture, read independently of tunlb's own parser.

use std::collections::BTreeMap;
use std::fmt;

use crate::lab::{Node, wait_until};
use crate::process::Process;

const CAPTURE: &str = include_str!("tools/capture.py");

/// A capture that runs.
pub(crate) struct Capture(Process);

impl Capture {
    /// Captures all IPv4 packets of a host's device, in both directions.
    pub(crate) fn start(node: &Node, device: &str) -> Self {
        let command = node.python(CAPTURE, &[device]);
        Self(node.start(
            &format!("capture-{}-{device}", node.name()),
            command,
            "capturing",
        ))
    }

    /// Waits until at least `count` packets satisfy `wanted`; returns those.
    pub(crate) fn wait_for(self, count: u64, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let mut found = Vec::new();
        wait_until(&format!("{count} captured packets"), || {
            let text = self.0.stdout();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            found = whole
                .lines()
                .map(Packet::from_hex)
                .filter(&wanted)
                .collect();
            found.len() as u64 >= count
        });
        found
    }
}

/// An IPv4 packet with a valid header.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Packet(pub(crate) Vec<u8>);

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Packet {
    fn from_hex(text: &str) -> Self {
        let digit = |text| u8::from_str_radix(text, 16).expect("hex digits");
        let bytes: Vec<_> = (0..text.len())
            .step_by(2)
            .map(|at| digit(&text[at..at + 2]))
            .collect();
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        Self(bytes[..length].to_vec())
    }

    fn header_length(&self) -> usize {
        usize::from(self.0[0] & 15) * 4
    }

    pub(crate) fn protocol(&self) -> u8 {
        self.0[9]
    }

    pub(crate) fn time_to_live(&self) -> u8 {
        self.0[8]
    }

    pub(crate) fn source(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    pub(crate) fn destination(&self) -> [u8; 4] {
        [self.0[16], self.0[17], self.0[18], self.0[19]]
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.0[self.header_length()..]
    }

    /// The packet inside of an IP-in-IP packet.
    pub(crate) fn inner(&self) -> Self {
        Self(self.payload().to_vec())
    }

    pub(crate) fn has_right_header_checksum(&self) -> bool {
        sum(0, &self.0[..self.header_length()]) == 0xffff
    }

    /// RFC 9293 §3.1: over a pseudo-header and the segment, the checksum included.
    pub(crate) fn has_right_tcp_checksum(&self) -> bool {
        let length = u32::try_from(self.payload().len()).expect("less than 64 KiB");
        let pseudo = sum(length + u32::from(self.protocol()), &self.0[12..20]);
        sum(pseudo, self.payload()) == 0xffff
    }

    /// The packet without what changes on the way to the director: time to live, header checksum, and
    /// the TCP checksum, which the sending host leaves to its device.
    pub(crate) fn into_sent(mut self) -> Self {
        let tcp_checksum = self.header_length() + 16;
        for at in [8, 10, 11, tcp_checksum, tcp_checksum + 1] {
            self.0[at] = 0;
        }
        self
    }
}

/// The ones' complement sum of RFC 1071, folded.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum = start + bytes.chunks(2).map(word).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// How often each packet occurs.
pub(crate) fn census(packets: impl IntoIterator<Item = Packet>) -> BTreeMap<Packet, u32> {
    let mut census = BTreeMap::new();
    for packet in packets {
        *census.entry(packet).or_default() += 1;
    }
    census
}
