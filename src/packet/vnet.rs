//! What the kernel says of a packet beside its bytes: `struct virtio_net_hdr` before each packet of a TUN with
//! IFF_VNET_HDR (linux/virtio_net.h; virtio 1.2 §5.1.6). In this machine's byte order.

use super::checksum::Sum;
use super::parse::{Malformed, Version};

/// How the kernel would segment a super-packet (`VIRTIO_NET_HDR_GSO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// A TCP segment longer than the path takes.
    Tcp(Version),
    /// UDP datagrams of one size behind one header.
    Udp,
}

/// Where a checksum is still to be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the bytes begin that it covers.
    pub start: u16,
    /// Where it stands, from there.
    pub offset: u16,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// `None`: the checksum is complete, or the packet has none.
    pub checksum: Option<PartialChecksum>,
    /// How to segment the packet, and bytes of data in each segment; `None` for one that fits its path.
    pub gso: Option<(Gso, u16)>,
    /// Bytes of all headers, as a hint.
    pub header_length: u16,
}

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// Beside the kind: the sender's CWR flag belongs to the first segment.
const GSO_ECN: u8 = 0x80;

impl VnetHeader {
    /// Its length in bytes.
    pub const LENGTH: usize = 10;

    /// Reads a header.
    ///
    /// # Errors
    /// [`Malformed`] for a kind of segmentation that was not asked for.
    pub fn decode(bytes: [u8; Self::LENGTH]) -> Result<Self, Malformed> {
        let [flags, kind, ..] = bytes;
        let [header_length, size, start, offset] =
            [2, 4, 6, 8].map(|at| u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        let gso = match kind & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(Gso::Tcp(Version::V4)),
            GSO_TCPV6 => Some(Gso::Tcp(Version::V6)),
            GSO_UDP_L4 => Some(Gso::Udp),
            _ => return Err(Malformed),
        };
        Ok(Self {
            checksum: (flags & NEEDS_CHECKSUM != 0).then_some(PartialChecksum { start, offset }),
            gso: gso.map(|gso| (gso, size)),
            header_length,
        })
    }

    /// Writes a header.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let (kind, size) = match self.gso {
            None => (GSO_NONE, 0),
            Some((Gso::Tcp(Version::V4), size)) => (GSO_TCPV4, size),
            Some((Gso::Tcp(Version::V6), size)) => (GSO_TCPV6, size),
            Some((Gso::Udp, size)) => (GSO_UDP_L4, size),
        };
        let (flags, start, offset) = match self.checksum {
            None => (0, 0, 0),
            Some(PartialChecksum { start, offset }) => (NEEDS_CHECKSUM, start, offset),
        };
        let mut bytes = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [(2, self.header_length), (4, size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

impl PartialChecksum {
    /// Completes the checksum: the field holds the sum of the pseudo-header (`skb_checksum_help`,
    /// linux/net/core/dev.c).
    ///
    /// # Errors
    /// [`Malformed`] where it does not stand in the packet.
    pub fn complete(self, packet: &mut [u8]) -> Result<(), Malformed> {
        let start = usize::from(self.start);
        let field = start + usize::from(self.offset);
        let covered = packet.get(start..).ok_or(Malformed)?;
        let sum = match Sum::default().add_bytes(covered).finish() {
            0 => 0xffff, // to UDP, 0 is no checksum (RFC 768); to TCP they are the same number
            sum => sum,
        };
        let field = packet.get_mut(field..field + 2).ok_or(Malformed)?;
        field.copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_kernel_says_of_a_tcp_super_packet() {
        let mut bytes = [1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [(2, 52_u16), (4, 1448), (6, 20), (8, 16)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        let header = VnetHeader::decode(bytes).unwrap();
        let expected = VnetHeader {
            checksum: Some(PartialChecksum {
                start: 20,
                offset: 16,
            }),
            gso: Some((Gso::Tcp(Version::V4), 1448)),
            header_length: 52,
        };
        assert_eq!(header, expected);
    }

    #[test]
    fn a_checksum_outside_the_packet() {
        let mut packet = [0; 20];
        for (start, offset) in [
            (21, 0),
            (20, 0),
            (19, 0),
            (10, 9),
            (0, 19),
            (u16::MAX, u16::MAX),
        ] {
            let checksum = PartialChecksum { start, offset };
            assert_eq!(
                checksum.complete(&mut packet),
                Err(Malformed),
                "{checksum:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_written(bytes: [u8; VnetHeader::LENGTH]) {
            if let Ok(header) = VnetHeader::decode(bytes) {
                prop_assert_eq!(VnetHeader::decode(header.encode()), Ok(header));
            }
        }
    }
}
