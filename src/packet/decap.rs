//! Takes an IP packet out of its tunnel (RFC 2003): the outer header checked and removed, the inner
//! header checked, congestion marks carried over (RFC 6040 §4.2). Who may send it is not asked here.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{IpNumber, Ipv4HeaderSlice};

use super::{
    checksum,
    ecn::{self, Ecn},
};

/// Where the TOS octet and the header checksum are in an IPv4 header (RFC 791 §3.1).
const TOS: usize = 1;
const CHECKSUM: usize = 10;

/// A packet out of its tunnel, before the congestion marks are merged.
#[derive(Debug, PartialEq, Eq)]
pub struct Decapsulated<'a> {
    /// Source address of the outer header: the director.
    pub outer_source: IpAddr,
    /// Source address of the inner packet: the client.
    pub inner_source: IpAddr,
    /// Destination address of the inner packet: the VIP.
    pub inner_destination: IpAddr,
    outer_ecn: Ecn,
    inner: &'a mut [u8],
}

/// Why a packet cannot be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecapError {
    /// A header does not fit its bytes, or the packet is a fragment of a tunnel packet.
    Malformed,
    /// Something other than IPv4 is inside.
    UnsupportedProtocol,
    /// Congestion was marked on a packet whose transport is not ECN-capable (RFC 6040 §4.2).
    Ecn,
}

/// Opens `outer`, an IPv4 packet as a raw socket delivers it: outer header first, reassembled.
/// Bytes beyond the total lengths (link-layer padding) are cut.
///
/// # Errors
/// [`DecapError::Malformed`] or [`DecapError::UnsupportedProtocol`].
pub fn open(outer: &mut [u8]) -> Result<Decapsulated<'_>, DecapError> {
    let header = Ipv4HeaderSlice::from_slice(outer).map_err(|_| DecapError::Malformed)?;
    let payload = header.slice().len()..usize::from(header.total_len());
    let outer_source = header.source_addr().into();
    let outer_ecn = Ecn::of(outer_tos(&header));
    if header.is_fragmenting_payload() {
        return Err(DecapError::Malformed); // the kernel has put these together already
    }
    if header.protocol() != IpNumber::IPV4 {
        return Err(DecapError::UnsupportedProtocol);
    }
    let inner = outer.get_mut(payload).ok_or(DecapError::Malformed)?;
    let (inner_source, inner_destination, length) = inner_header(inner)?;
    let inner = inner.get_mut(..length).ok_or(DecapError::Malformed)?;
    Ok(Decapsulated {
        outer_source,
        inner_source: inner_source.into(),
        inner_destination: inner_destination.into(),
        outer_ecn,
        inner,
    })
}

/// Source, destination and total length in bytes. IPv6 is told apart from nonsense. The checksum is left
/// to the kernel, which checks and counts it (IpInHdrErrors) when the packet is injected.
fn inner_header(inner: &[u8]) -> Result<(Ipv4Addr, Ipv4Addr, usize), DecapError> {
    if inner.first().is_some_and(|first| first >> 4 == 6) {
        return Err(DecapError::UnsupportedProtocol);
    }
    let header = Ipv4HeaderSlice::from_slice(inner).map_err(|_| DecapError::Malformed)?;
    let length = usize::from(header.total_len());
    if length < header.slice().len() {
        return Err(DecapError::Malformed);
    }
    Ok((header.source_addr(), header.destination_addr(), length))
}

fn outer_tos(header: &Ipv4HeaderSlice<'_>) -> u8 {
    header.slice().get(TOS).copied().unwrap_or_default()
}

impl<'a> Decapsulated<'a> {
    /// Merges the congestion marks into the inner header, in place, and hands the packet out.
    ///
    /// # Errors
    /// [`DecapError::Ecn`].
    pub fn into_inner(self) -> Result<&'a mut [u8], DecapError> {
        let Self {
            outer_ecn, inner, ..
        } = self;
        let [version, tos] = word(inner, 0).to_be_bytes();
        let merged = ecn::decapsulate(outer_ecn, Ecn::of(tos)).ok_or(DecapError::Ecn)?;
        let marked = merged.in_traffic_class(tos);
        if marked != tos {
            let (old, new) = ([version, tos], [version, marked]);
            let old_sum = word(inner, CHECKSUM);
            let sum = checksum::update(old_sum, u16::from_be_bytes(old), u16::from_be_bytes(new));
            set_word(inner, 0, u16::from_be_bytes(new));
            set_word(inner, CHECKSUM, sum);
        }
        Ok(inner)
    }
}

/// The big-endian word at `offset`; `open` has checked that a whole header is there.
fn word(bytes: &[u8], offset: usize) -> u16 {
    let pair = bytes
        .get(offset..offset + 2)
        .and_then(|pair| pair.first_chunk());
    pair.copied().map_or(0, u16::from_be_bytes)
}

fn set_word(bytes: &mut [u8], offset: usize, value: u16) {
    if let Some(pair) = bytes.get_mut(offset..offset + 2) {
        pair.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 10.0.1.1 to 10.0.1.11, protocol 4, around 192.0.2.7 to 10.0.0.100, UDP 4000 to 53 with "hi";
    /// both headers' checksums are right.
    const PACKET: [u8; 50] = [
        0x45, 0x00, 0x00, 0x32, 0x00, 0x00, 0x40, 0x00, 0x40, 0x04, 0x24, 0xbd, 10, 0, 1, 1, 10, 0,
        1, 11, //
        0x45, 0x00, 0x00, 0x1e, 0x12, 0x34, 0x00, 0x00, 0x3f, 0x11, 0x9d, 0x30, 192, 0, 2, 7, 10,
        0, 0, 100, //
        0x0f, 0xa0, 0x00, 0x35, 0x00, 0x0a, 0x00, 0x00, b'h', b'i',
    ];

    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut packet = PACKET.to_vec();
        for (offset, value) in changes {
            packet[*offset] = *value;
        }
        packet
    }

    #[test]
    fn the_literal_packet_is_right() {
        assert_eq!(checksum::checksum(&PACKET[..20]), 0);
        assert_eq!(checksum::checksum(&PACKET[20..40]), 0);
    }

    #[test]
    fn the_inner_packet_comes_out_unchanged() {
        let mut packet = PACKET;
        let opened = open(&mut packet).unwrap();
        assert_eq!(opened.outer_source, IpAddr::from([10, 0, 1, 1]));
        assert_eq!(opened.inner_source, IpAddr::from([192, 0, 2, 7]));
        assert_eq!(opened.inner_destination, IpAddr::from([10, 0, 0, 100]));
        assert_eq!(opened.into_inner().unwrap(), &PACKET[20..]);
    }

    #[test]
    fn padding_is_cut() {
        let mut padded = PACKET.to_vec();
        padded.extend([0; 6]);
        assert_eq!(open(&mut padded).unwrap().inner, &PACKET[20..]);
        // Padding between the inner packet's end and the outer one's.
        let mut padded = with(&[(3, 0x38)]);
        padded.extend([0; 6]);
        assert_eq!(open(&mut padded).unwrap().inner, &PACKET[20..]);
    }

    #[test]
    fn options_are_passed_over() {
        let mut packet = with(&[(0, 0x46), (3, 0x36)]);
        packet.splice(20..20, [1, 1, 1, 0]);
        assert_eq!(open(&mut packet).unwrap().inner, &PACKET[20..]);
        let mut packet = with(&[(3, 0x36), (20, 0x46), (23, 0x22)]);
        packet.splice(40..40, [1, 1, 1, 0]);
        assert_eq!(open(&mut packet).unwrap().inner.len(), 34);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        use DecapError::{Malformed, UnsupportedProtocol};
        for (description, mut packet, expected) in [
            ("empty", vec![], Malformed),
            ("short outer header", PACKET[..19].to_vec(), Malformed),
            ("outer version 6", with(&[(0, 0x65)]), Malformed),
            ("outer header length 16", with(&[(0, 0x44)]), Malformed),
            (
                "outer length beyond the packet",
                with(&[(3, 0x33)]),
                Malformed,
            ),
            (
                "outer length within the header",
                with(&[(3, 0x13)]),
                Malformed,
            ),
            (
                "a fragment of the tunnel packet",
                with(&[(6, 0x20)]),
                Malformed,
            ),
            ("a later fragment", with(&[(7, 0x01)]), Malformed),
            ("no inner packet", with(&[(3, 0x14)]), Malformed),
            ("6in4", with(&[(9, 41)]), UnsupportedProtocol),
            ("GRE", with(&[(9, 47)]), UnsupportedProtocol),
            (
                "inner version 6 under protocol 4",
                with(&[(20, 0x65)]),
                UnsupportedProtocol,
            ),
            ("inner version 5", with(&[(20, 0x55)]), Malformed),
            ("inner header length 16", with(&[(20, 0x44)]), Malformed),
            (
                "inner options beyond the packet",
                with(&[(20, 0x4f)]),
                Malformed,
            ),
            (
                "inner length beyond the packet",
                with(&[(23, 0x1f)]),
                Malformed,
            ),
            (
                "inner length within its header",
                with(&[(23, 0x13)]),
                Malformed,
            ),
        ] {
            assert_eq!(open(&mut packet).unwrap_err(), expected, "{description}");
        }
    }

    #[test]
    fn congestion_is_carried_over_with_a_right_checksum() {
        // Outer CE over inner ECT(0), DSCP EF.
        let mut packet = with(&[(1, 0x03), (21, 0xba)]);
        let sum = checksum::update(0x9d30, 0x4500, 0x45ba).to_be_bytes();
        packet[30..32].copy_from_slice(&sum);
        let inner = open(&mut packet).unwrap().into_inner().unwrap();
        assert_eq!(inner[1], 0xbb);
        assert_eq!(checksum::checksum(&inner[..20]), 0);
    }

    #[test]
    fn congestion_for_the_deaf_is_dropped() {
        let mut packet = with(&[(1, 0x03)]);
        let result = open(&mut packet).unwrap().into_inner();
        assert_eq!(result.unwrap_err(), DecapError::Ecn);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            drop(open(&mut bytes).and_then(Decapsulated::into_inner));
        }

        /// Changed literal packets reach deeper than random ones; what comes out is one whole packet.
        #[test]
        fn changed_packets_never_panic(
            changes in prop::collection::vec((0_usize..40, any::<u8>()), 0..6),
            length in 0_usize..=50,
        ) {
            let mut packet = with(&changes);
            packet.truncate(length);
            if let Ok(inner) = open(&mut packet).and_then(Decapsulated::into_inner) {
                prop_assert_eq!(inner[0] >> 4, 4);
                prop_assert_eq!(usize::from(word(inner, 2)), inner.len());
                prop_assert!(inner.len() >= usize::from(inner[0] & 0xf) * 4);
            }
        }
    }
}
