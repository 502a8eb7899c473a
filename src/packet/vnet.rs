//! The header that stands before each packet of a TUN opened with `IFF_VNET_HDR`: which checksum is still to
//! be completed, and how a packet larger than the path is to be segmented.
//!
//! Fields are in the byte order of the machine, as long as `TUNSETVNETLE` and `TUNSETVNETBE` are not used.
//! Read first: virtio 1.2 §5.1.6, linux/virtio_net.h.

/// Bytes of a [`VnetHeader`] (`struct virtio_net_hdr`).
pub const VNET_HEADER: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

/// `VIRTIO_NET_HDR_GSO_ECN`, a flag beside the kind.
const GSO_ECN: u8 = 0x80;

/// The transport checksum holds the sum of the pseudo-header only; the rest is to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the summed bytes begin: at the transport header, bytes from the start of the packet.
    pub start: u16,
    /// Where the field is, bytes from `start`.
    pub offset: u16,
}

/// What the segments of a packet are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    TcpV4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    TcpV6,
    /// UDP datagrams of one size, the last may be shorter (`VIRTIO_NET_HDR_GSO_UDP_L4`, Linux 6.2).
    Udp,
}

/// How a packet is to be segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// What they are.
    pub kind: Segmentation,
    /// Bytes of payload in each, aside from the last.
    pub payload_bytes: u16,
    /// Bytes of the headers that each gets a copy of.
    pub header_bytes: u16,
    /// Whether the first segment carries CWR and the others do not (RFC 3168 §6.1.2).
    pub reports_congestion: bool,
}

/// What stands before a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum to be completed; none where it is complete, or not examined.
    pub checksum: Option<PartialChecksum>,
    /// How to segment; none for a packet that is to stay whole.
    pub segments: Option<Segments>,
}

/// A header of a kind that is not known, or that needs a checksum and names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a virtio-net header that tunlb knows")]
pub struct UnknownVnetHeader;

impl Segmentation {
    const ALL: [Self; 3] = [Self::TcpV4, Self::TcpV6, Self::Udp];

    const fn code(self) -> u8 {
        match self {
            Self::TcpV4 => 1,
            Self::TcpV6 => 4,
            Self::Udp => 5,
        }
    }
}

impl VnetHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; VNET_HEADER] {
        let (flags, start, offset) = match self.checksum {
            Some(PartialChecksum { start, offset }) => (NEEDS_CHECKSUM, start, offset),
            None => (0, 0, 0),
        };
        let (kind, header, size) = match self.segments {
            Some(segments) => (
                segments.kind.code()
                    | if segments.reports_congestion {
                        GSO_ECN
                    } else {
                        0
                    },
                segments.header_bytes,
                segments.payload_bytes,
            ),
            None => (0, 0, 0),
        };
        let mut bytes = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [header, size, start, offset];
        for (pair, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            pair.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Reads a header. Whether its numbers fit a packet is not asked here.
    ///
    /// # Errors
    /// [`UnknownVnetHeader`].
    pub fn decode(bytes: &[u8; VNET_HEADER]) -> Result<Self, UnknownVnetHeader> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let checksum = (bytes[0] & NEEDS_CHECKSUM != 0).then(|| PartialChecksum {
            start: word(6),
            offset: word(8),
        });
        let kind = bytes[1] & !GSO_ECN;
        let segments = match Segmentation::ALL.into_iter().find(|k| k.code() == kind) {
            Some(kind) => Some(Segments {
                kind,
                payload_bytes: word(4),
                header_bytes: word(2),
                reports_congestion: bytes[1] & GSO_ECN != 0,
            }),
            None if kind == 0 => None,
            None => return Err(UnknownVnetHeader),
        };
        if segments.is_some() && checksum.is_none() {
            return Err(UnknownVnetHeader); // segments need checksums of their own
        }
        Ok(Self { checksum, segments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_packet_that_stays_as_it_is_has_zeros() {
        assert_eq!(VnetHeader::default().encode(), [0; VNET_HEADER]);
    }

    /// `struct virtio_net_hdr { __u8 flags; __u8 gso_type; __virtio16 hdr_len, gso_size, csum_start,
    /// csum_offset; }`.
    #[test]
    fn the_layout_is_the_kernels() {
        let header = VnetHeader {
            checksum: Some(PartialChecksum {
                start: 20,
                offset: 16,
            }),
            segments: Some(Segments {
                kind: Segmentation::TcpV4,
                payload_bytes: 1448,
                header_bytes: 52,
                reports_congestion: true,
            }),
        };
        let words = [52_u16, 1448, 20, 16].map(u16::to_ne_bytes).concat();
        assert_eq!(header.encode().to_vec(), [vec![1, 0x81], words].concat());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (kind, flags) in [(3, 1), (2, 1), (6, 1), (0x7f, 0), (1, 0), (5, 0)] {
            let header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(
                VnetHeader::decode(&header),
                Err(UnknownVnetHeader),
                "{kind}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            start: u16, offset: u16, payload_bytes: u16, header_bytes: u16, reports_congestion: bool,
            kind in prop::sample::select(Segmentation::ALL.to_vec()),
            whole: bool,
        ) {
            let segments = Segments { kind, payload_bytes, header_bytes, reports_congestion };
            let header = VnetHeader {
                checksum: Some(PartialChecksum { start, offset }),
                segments: (!whole).then_some(segments),
            };
            prop_assert_eq!(VnetHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn random_bytes_never_panic(bytes: [u8; VNET_HEADER]) {
            if let Ok(header) = VnetHeader::decode(&bytes) {
                prop_assert_eq!(VnetHeader::decode(&header.encode()), Ok(header));
            }
        }
    }
}
