//! Takes an IP packet out of its tunnel: what is in front of it checked and removed, the inner header
//! checked, congestion marks carried over (RFC 6040 §4.2). Who may send it is not asked here.
//!
//! Read first: RFC 2003 (4in4), RFC 4213 (6in4), RFC 2473 (4in6, 6in6), draft-ietf-intarea-gue-09.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::{
    Version, checksum,
    ecn::{self, Ecn},
};

/// Where the header checksum is in an IPv4 header (RFC 791 §3.1).
const CHECKSUM: usize = 10;

/// Bytes of a GUE header before its optional fields (draft-ietf-intarea-gue-09 §3.1).
const GUE_HEADER: usize = 4;

/// GUE: the flag that announces 32 private flags, which are the first of the optional fields
/// (`GUE_FLAG_PRIV`, linux/gue.h).
const GUE_PRIVATE_FLAGS: u16 = 1;

/// A packet out of its tunnel, before the congestion marks are merged.
#[derive(Debug, PartialEq, Eq)]
pub struct Decapsulated<'a> {
    /// Source address of the outer header: the director.
    pub outer_source: IpAddr,
    /// Source address of the inner packet: the client.
    pub inner_source: IpAddr,
    /// Destination address of the inner packet: the VIP.
    pub inner_destination: IpAddr,
    version: Version,
    outer_ecn: Ecn,
    inner: &'a mut [u8],
}

/// What a socket tells about an outer header that it does not deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The sender: the director.
    pub source: IpAddr,
    /// DSCP and ECN: TOS (IPv4) or traffic class (IPv6).
    pub traffic_class: u8,
}

/// Why a packet cannot be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecapError {
    /// A header does not fit its bytes, the inner packet is not of the version that the outer header
    /// says, or the packet is a fragment of a tunnel packet.
    Malformed,
    /// Something other than IP is inside, a GUE control message, or a GUE flag that is not known.
    UnsupportedProtocol,
    /// Congestion was marked on a packet whose transport is not ECN-capable (RFC 6040 §4.2).
    Ecn,
}

/// Opens `packet`, an IPv4 packet as a raw socket delivers it: outer header first, reassembled.
/// Bytes beyond the total lengths (link-layer padding) are cut.
///
/// # Errors
/// [`DecapError::Malformed`] or [`DecapError::UnsupportedProtocol`].
pub fn open_ipv4(packet: &mut [u8]) -> Result<Decapsulated<'_>, DecapError> {
    let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| DecapError::Malformed)?;
    let payload = header.slice().len()..usize::from(header.total_len());
    let outer = Outer {
        source: header.source_addr().into(),
        traffic_class: traffic_class(Version::V4, header.slice()),
    };
    if header.is_fragmenting_payload() {
        return Err(DecapError::Malformed); // the kernel has put these together already
    }
    let version = version_of(header.protocol().0)?;
    let inner = packet.get_mut(payload).ok_or(DecapError::Malformed)?;
    open_inner(outer, version, inner)
}

/// Opens the payload of an IPv6 packet as a raw socket delivers it: without the outer header, which had
/// `protocol` (4 or 41) at the end of its chain.
///
/// # Errors
/// [`DecapError::Malformed`] or [`DecapError::UnsupportedProtocol`].
pub fn open_ipv6(
    outer: Outer,
    protocol: u8,
    payload: &mut [u8],
) -> Result<Decapsulated<'_>, DecapError> {
    open_inner(outer, version_of(protocol)?, payload)
}

/// Opens the payload of a UDP datagram: GUE variant 1 (the inner packet itself, told by its version), or
/// variant 0, as Linux takes it (`gue_udp_recv`, linux/net/ipv4/fou_core.c).
///
/// # Errors
/// [`DecapError::Malformed`] or [`DecapError::UnsupportedProtocol`].
pub fn open_gue(outer: Outer, payload: &mut [u8]) -> Result<Decapsulated<'_>, DecapError> {
    match *payload {
        [] => Err(DecapError::Malformed),
        [first, ..] if first >> 4 == 4 => open_inner(outer, Version::V4, payload),
        [first, ..] if first >> 4 == 6 => open_inner(outer, Version::V6, payload),
        [0..=0x3f, ..] => open_gue_header(outer, payload),
        [..] => Err(DecapError::UnsupportedProtocol),
    }
}

/// Variant 0. The first byte holds the control bit and the length of the optional fields in 32-bit words.
/// Private data that no flag announces is part of that length and passed over.
fn open_gue_header(outer: Outer, payload: &mut [u8]) -> Result<Decapsulated<'_>, DecapError> {
    let [first, protocol, high, low] = *payload.first_chunk().ok_or(DecapError::Malformed)?;
    let header = GUE_HEADER + usize::from(first & 0x1f) * 4;
    let (header, inner) = payload
        .split_at_mut_checked(header)
        .ok_or(DecapError::Malformed)?;
    let is_control = first & 0x20 != 0;
    if is_control {
        return Err(DecapError::UnsupportedProtocol);
    }
    check_gue_flags(u16::from_be_bytes([high, low]), &header[GUE_HEADER..])?;
    open_inner(outer, version_of(protocol)?, inner)
}

/// A flag that is not known stands for a field of unknown meaning. The private flags may be there; the
/// only one that Linux knows, remote checksum offload, would need the inner checksum to be made here.
fn check_gue_flags(flags: u16, fields: &[u8]) -> Result<(), DecapError> {
    match (flags, fields) {
        (0, _) | (GUE_PRIVATE_FLAGS, [0, 0, 0, 0, ..]) => Ok(()),
        (GUE_PRIVATE_FLAGS, fields) if fields.len() < 4 => Err(DecapError::Malformed),
        _ => Err(DecapError::UnsupportedProtocol),
    }
}

const fn version_of(protocol: u8) -> Result<Version, DecapError> {
    match IpNumber(protocol) {
        IpNumber::IPV4 => Ok(Version::V4),
        IpNumber::IPV6 => Ok(Version::V6),
        _ => Err(DecapError::UnsupportedProtocol),
    }
}

fn open_inner(
    outer: Outer,
    version: Version,
    inner: &mut [u8],
) -> Result<Decapsulated<'_>, DecapError> {
    let (inner_source, inner_destination, length) = match version {
        Version::V4 => inner_v4(inner),
        Version::V6 => inner_v6(inner),
    }
    .ok_or(DecapError::Malformed)?;
    let inner = inner.get_mut(..length).ok_or(DecapError::Malformed)?;
    Ok(Decapsulated {
        outer_source: outer.source,
        inner_source,
        inner_destination,
        version,
        outer_ecn: Ecn::of(outer.traffic_class),
        inner,
    })
}

/// Source, destination and total length in bytes. The checksum is left to the kernel, which checks and
/// counts it (IpInHdrErrors) when the packet is injected.
fn inner_v4(inner: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    let header = Ipv4HeaderSlice::from_slice(inner).ok()?;
    let length = usize::from(header.total_len());
    let addresses = (
        header.source_addr().into(),
        header.destination_addr().into(),
    );
    (length >= header.slice().len()).then_some((addresses.0, addresses.1, length))
}

/// Source, destination and total length in bytes. What follows the fixed header is left to the kernel.
fn inner_v6(inner: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    let header = Ipv6HeaderSlice::from_slice(inner).ok()?;
    let length = header.slice().len() + usize::from(header.payload_length());
    let (source, destination) = (header.source_addr(), header.destination_addr());
    Some((source.into(), destination.into(), length))
}

impl<'a> Decapsulated<'a> {
    /// Merges the congestion marks into the inner header, in place, and hands the packet out. A transport
    /// checksum that the kernel left partial is partial still.
    ///
    /// # Errors
    /// [`DecapError::Ecn`].
    pub fn into_inner(self) -> Result<&'a mut [u8], DecapError> {
        let Self {
            outer_ecn,
            version,
            inner,
            ..
        } = self;
        let class = traffic_class(version, inner);
        let merged = ecn::decapsulate(outer_ecn, Ecn::of(class)).ok_or(DecapError::Ecn)?;
        let marked = merged.in_traffic_class(class);
        if marked != class {
            set_traffic_class(version, inner, marked);
        }
        Ok(inner)
    }
}

/// DSCP and ECN.
fn traffic_class(version: Version, header: &[u8]) -> u8 {
    let [_, class] = (word(header, 0) >> bits_after_class(version)).to_be_bytes();
    class
}

fn set_traffic_class(version: Version, header: &mut [u8], class: u8) {
    let shift = bits_after_class(version);
    let old = word(header, 0);
    let new = old & !(0xff << shift) | u16::from(class) << shift;
    set_word(header, 0, new);
    if version == Version::V4 {
        let sum = checksum::update(word(header, CHECKSUM), old, new);
        set_word(header, CHECKSUM, sum);
    }
}

/// Bits between the traffic class and the end of a header's first 16 bits (RFC 791 §3.1, RFC 8200 §3).
const fn bits_after_class(version: Version) -> u32 {
    match version {
        Version::V4 => 0,
        Version::V6 => 4,
    }
}

/// The big-endian word at `offset`; only asked for where a whole header is known to be.
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

    /// 10.0.1.1 to 10.0.1.11, protocol 4.
    const OUTER4: [u8; 20] = [
        0x45, 0x00, 0x00, 0x32, 0x00, 0x00, 0x40, 0x00, 0x40, 0x04, 0x24, 0xbd, 10, 0, 1, 1, 10, 0,
        1, 11,
    ];

    /// 192.0.2.7 to 10.0.0.100, UDP 4000 to 53 with "hi".
    const INNER4: [u8; 30] = [
        0x45, 0x00, 0x00, 0x1e, 0x12, 0x34, 0x00, 0x00, 0x3f, 0x11, 0x9d, 0x30, 192, 0, 2, 7, 10,
        0, 0, 100, //
        0x0f, 0xa0, 0x00, 0x35, 0x00, 0x0a, 0x00, 0x00, b'h', b'i',
    ];

    /// 2001:db8:1::7 to 2001:db8::100, flow label 0x12345, no next header, two bytes after it.
    const INNER6: [u8; 42] = [
        0x60, 0x01, 0x23, 0x45, 0x00, 0x02, 59, 63, //
        0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, //
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, //
        b'h', b'i',
    ];

    const DIRECTOR6: Outer = Outer {
        source: IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1)),
        traffic_class: 0,
    };

    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        changed([&OUTER4[..], &INNER4].concat(), changes)
    }

    fn changed(mut packet: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
        for (offset, value) in changes {
            packet[*offset] = *value;
        }
        packet
    }

    fn six_in_four() -> Vec<u8> {
        let packet = [&OUTER4[..], &INNER6].concat();
        changed(packet, &[(3, 0x3e), (9, 41)])
    }

    fn ends(packet: &Decapsulated<'_>) -> [String; 3] {
        [
            packet.outer_source,
            packet.inner_source,
            packet.inner_destination,
        ]
        .map(|address| address.to_string())
    }

    #[test]
    fn the_literal_packets_are_right() {
        assert_eq!(checksum::checksum(&OUTER4), 0);
        assert_eq!(checksum::checksum(&INNER4[..20]), 0);
    }

    #[test]
    fn every_family_comes_out_unchanged() {
        const ENDS4: [&str; 2] = ["192.0.2.7", "10.0.0.100"];
        const ENDS6: [&str; 2] = ["2001:db8:1::7", "2001:db8::100"];
        let gue = |protocol| [0, protocol, 0, 0];
        let mut packets = [
            with(&[]),
            six_in_four(),
            INNER4.to_vec(),
            INNER6.to_vec(),
            INNER4.to_vec(),
            INNER6.to_vec(),
            [&gue(4)[..], &INNER4].concat(),
            [&gue(41)[..], &INNER6].concat(),
        ];
        let [a, b, c, d, e, f, g, h] = &mut packets;
        for (description, opened, director, [client, vip], inner) in [
            ("4in4", open_ipv4(a), "10.0.1.1", ENDS4, &INNER4[..]),
            ("6in4", open_ipv4(b), "10.0.1.1", ENDS6, &INNER6),
            (
                "4in6",
                open_ipv6(DIRECTOR6, 4, c),
                "2001:db8:2::1",
                ENDS4,
                &INNER4,
            ),
            (
                "6in6",
                open_ipv6(DIRECTOR6, 41, d),
                "2001:db8:2::1",
                ENDS6,
                &INNER6,
            ),
            (
                "GUE variant 1, IPv4",
                open_gue(DIRECTOR6, e),
                "2001:db8:2::1",
                ENDS4,
                &INNER4,
            ),
            (
                "GUE variant 1, IPv6",
                open_gue(DIRECTOR6, f),
                "2001:db8:2::1",
                ENDS6,
                &INNER6,
            ),
            (
                "GUE variant 0, IPv4",
                open_gue(DIRECTOR6, g),
                "2001:db8:2::1",
                ENDS4,
                &INNER4,
            ),
            (
                "GUE variant 0, IPv6",
                open_gue(DIRECTOR6, h),
                "2001:db8:2::1",
                ENDS6,
                &INNER6,
            ),
        ] {
            let opened = opened.unwrap();
            assert_eq!(ends(&opened), [director, client, vip], "{description}");
            assert_eq!(opened.into_inner().unwrap(), inner, "{description}");
        }
    }

    #[test]
    fn padding_is_cut() {
        let mut padded = with(&[]);
        padded.extend([0; 6]);
        assert_eq!(open_ipv4(&mut padded).unwrap().inner, &INNER4);
        // Padding between the inner packet's end and the outer one's.
        let mut padded = with(&[(3, 0x38)]);
        padded.extend([0; 6]);
        assert_eq!(open_ipv4(&mut padded).unwrap().inner, &INNER4);
        let mut padded = [&INNER6[..], &[0; 6]].concat();
        assert_eq!(open_gue(DIRECTOR6, &mut padded).unwrap().inner, &INNER6);
    }

    #[test]
    fn options_are_passed_over() {
        let mut packet = with(&[(0, 0x46), (3, 0x36)]);
        packet.splice(20..20, [1, 1, 1, 0]);
        assert_eq!(open_ipv4(&mut packet).unwrap().inner, &INNER4);
        let mut packet = with(&[(3, 0x36), (20, 0x46), (23, 0x22)]);
        packet.splice(40..40, [1, 1, 1, 0]);
        assert_eq!(open_ipv4(&mut packet).unwrap().inner.len(), 34);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        use DecapError::{Malformed, UnsupportedProtocol};
        for (description, mut packet, expected) in [
            ("empty", vec![], Malformed),
            ("short outer header", OUTER4[..19].to_vec(), Malformed),
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
            ("GRE", with(&[(9, 47)]), UnsupportedProtocol),
            ("inner version 4 under 41", with(&[(9, 41)]), Malformed),
            (
                "inner version 6 under 4",
                changed(six_in_four(), &[(9, 4)]),
                Malformed,
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
            (
                "inner IPv6 length beyond the packet",
                changed(six_in_four(), &[(25, 3)]),
                Malformed,
            ),
        ] {
            assert_eq!(
                open_ipv4(&mut packet).unwrap_err(),
                expected,
                "{description}"
            );
        }
        for (protocol, packet, expected) in [
            (4, &INNER6[..], Malformed),
            (41, &INNER4, Malformed),
            (41, &INNER6[..41], Malformed),
            (47, &INNER4, UnsupportedProtocol),
        ] {
            let mut packet = packet.to_vec();
            let error = open_ipv6(DIRECTOR6, protocol, &mut packet).unwrap_err();
            assert_eq!(error, expected, "protocol {protocol}");
        }
    }

    #[test]
    fn gue_is_taken_as_linux_takes_it() {
        use DecapError::{Malformed, UnsupportedProtocol};
        let private = [0xab_u8; 31 * 4];
        for (description, header, inner, expected) in [
            (
                "private data",
                &[1, 4, 0, 0, 1, 2, 3, 4][..],
                &INNER4[..],
                None,
            ),
            (
                "of 12 bytes",
                &[3, 41, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0],
                &INNER6,
                None,
            ),
            (
                "as much as can be",
                &[&[31, 4, 0, 0][..], &private].concat(),
                &INNER4,
                None,
            ),
            (
                "private flags, none set",
                &[1, 4, 0, 1, 0, 0, 0, 0],
                &INNER4,
                None,
            ),
            (
                "and data",
                &[2, 4, 0, 1, 0, 0, 0, 0, 7, 7, 7, 7],
                &INNER4,
                None,
            ),
            (
                "private flags that are not there",
                &[0, 4, 0, 1],
                &INNER4,
                Some(Malformed),
            ),
            (
                "remote checksum offload",
                &[2, 4, 0, 1, 0x80, 0, 0, 0, 0, 20, 0, 26],
                &INNER4,
                Some(UnsupportedProtocol),
            ),
            (
                "a private flag that is not known",
                &[1, 4, 0, 1, 0, 0, 0, 1],
                &INNER4,
                Some(UnsupportedProtocol),
            ),
            (
                "another flag",
                &[1, 4, 0, 2, 0, 0, 0, 0],
                &INNER4,
                Some(UnsupportedProtocol),
            ),
            (
                "both flags",
                &[1, 4, 0x80, 1, 0, 0, 0, 0],
                &INNER4,
                Some(UnsupportedProtocol),
            ),
            ("empty", &[], &[], Some(Malformed)),
            ("short header", &[0, 4, 0], &[], Some(Malformed)),
            (
                "short private data",
                &[2, 4, 0, 0, 1, 2, 3, 4, 5, 6, 7],
                &[],
                Some(Malformed),
            ),
            ("no inner packet", &[0, 4, 0, 0], &[], Some(Malformed)),
            (
                "nothing behind private data",
                &[1, 4, 0, 0, 1, 2, 3, 4],
                &[],
                Some(Malformed),
            ),
            ("short variant 1", &[], &INNER6[..39], Some(Malformed)),
            (
                "version 6 announced as 4",
                &[0, 4, 0, 0],
                &INNER6,
                Some(Malformed),
            ),
            (
                "version 5",
                &[0x55, 0, 0, 20],
                &INNER4,
                Some(UnsupportedProtocol),
            ),
            (
                "control message",
                &[0x20, 4, 0, 0],
                &INNER4,
                Some(UnsupportedProtocol),
            ),
            (
                "with data",
                &[0x21, 4, 0, 0, 0, 0, 0, 0],
                &INNER4,
                Some(UnsupportedProtocol),
            ),
            ("GRE", &[0, 47, 0, 0], &INNER4, Some(UnsupportedProtocol)),
            (
                "variant 2",
                &[0x80, 4, 0, 0],
                &INNER4,
                Some(UnsupportedProtocol),
            ),
            ("variant 3", &[0xc0], &[], Some(UnsupportedProtocol)),
        ] {
            let mut payload = [header, inner].concat();
            match open_gue(DIRECTOR6, &mut payload) {
                Ok(packet) => {
                    assert_eq!((&*packet.inner, None), (inner, expected), "{description}")
                }
                Err(error) => assert_eq!(Some(error), expected, "{description}"),
            }
        }
    }

    /// Where the inner packet begins and of which protocol it is, by the text of fou_core.c.
    fn oracle(payload: &[u8]) -> Option<(usize, u8)> {
        let first = *payload.first()?;
        match first >> 6 {
            1 if first >> 4 == 4 => return Some((0, 4)),
            1 if first >> 4 == 6 => return Some((0, 41)),
            0 => {}
            _ => return None,
        }
        let (hlen, control) = (usize::from(first % 32), first & 0x20 != 0);
        let header = payload.get(..4 + 4 * hlen)?;
        let flags = u16::from_be_bytes([header[2], header[3]]);
        let private = || {
            header
                .get(4..8)
                .map(|four| u32::from_be_bytes(four.try_into().unwrap()))
        };
        let fine = flags == 0 || (flags == 1 && private() == Some(0));
        (fine && !control).then_some((header.len(), header[1]))
    }

    #[test]
    fn congestion_is_carried_over_with_a_right_checksum() {
        // Outer CE over inner ECT(0), DSCP EF.
        let mut packet = with(&[(1, 0x03), (21, 0xba)]);
        let sum = checksum::update(0x9d30, 0x4500, 0x45ba).to_be_bytes();
        packet[30..32].copy_from_slice(&sum);
        let inner = open_ipv4(&mut packet).unwrap().into_inner().unwrap();
        assert_eq!(inner[1], 0xbb);
        assert_eq!(checksum::checksum(&inner[..20]), 0);
    }

    /// DSCP EF (0xb8) and the flow label stay; the four by four results are the table's.
    #[test]
    fn congestion_over_an_inner_ipv6_packet() {
        for outer in 0..4 {
            for inner in 0..4 {
                let mut packet = changed(INNER6.to_vec(), &[(0, 0x6b), (1, 0x81 | inner << 4)]);
                let director = Outer {
                    traffic_class: 0x20 | outer,
                    ..DIRECTOR6
                };
                let expected = ecn::decapsulate(Ecn::of(outer), Ecn::of(inner)).map(|marked| {
                    let second = 0x81 | (marked as u8) << 4;
                    changed(INNER6.to_vec(), &[(0, 0x6b), (1, second)])
                });
                let result = open_ipv6(director, 41, &mut packet).unwrap().into_inner();
                assert_eq!(
                    result.ok().map(|inner| inner.to_vec()),
                    expected,
                    "{outer} over {inner}"
                );
            }
        }
    }

    #[test]
    fn congestion_for_the_deaf_is_dropped() {
        let mut packet = with(&[(1, 0x03)]);
        let result = open_ipv4(&mut packet).unwrap().into_inner();
        assert_eq!(result.unwrap_err(), DecapError::Ecn);
    }

    type Open = fn(&mut [u8]) -> Result<Decapsulated<'_>, DecapError>;

    const OPEN: [Open; 4] = [
        open_ipv4,
        |bytes| open_ipv6(DIRECTOR6, 4, bytes),
        |bytes| open_ipv6(DIRECTOR6, 41, bytes),
        |bytes| open_gue(DIRECTOR6, bytes),
    ];

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            for open in OPEN {
                drop(open(&mut bytes.clone()).and_then(Decapsulated::into_inner));
            }
        }

        /// Headers of every kind, cut anywhere: what Linux takes comes out, nothing else does.
        #[test]
        fn gue_agrees_with_the_text_of_linux(
            first in any::<u8>(),
            protocol in prop_oneof![Just(4_u8), Just(41), any::<u8>()],
            flags in prop_oneof![Just(0_u16), Just(1), any::<u16>()],
            private in prop_oneof![Just(0_u32), Just(1 << 31), any::<u32>()],
            data in prop::collection::vec(any::<u8>(), 0..130),
            inner in prop::sample::select(vec![INNER4.to_vec(), INNER6.to_vec()]),
            exact in any::<bool>(),
            cut in 0_usize..200,
        ) {
            let mut data = data;
            if exact {
                data.resize(usize::from(first & 0x1f).saturating_sub(1) * 4, 0xab);
            }
            let private = if exact && first & 0x1f == 0 { vec![] } else { private.to_be_bytes().to_vec() };
            let header = [&[first, protocol][..], &flags.to_be_bytes(), &private].concat();
            let mut payload = [header, data, inner].concat();
            payload.truncate(payload.len() - if exact { 0 } else { cut.min(payload.len()) });
            let expected = oracle(&payload).and_then(|(start, protocol)| {
                open_ipv6(DIRECTOR6, protocol, &mut payload.clone()[start..]).ok()
                    .map(|packet| packet.inner.to_vec())
            });
            let opened = open_gue(DIRECTOR6, &mut payload).ok().map(|packet| packet.inner.to_vec());
            prop_assert_eq!(opened, expected);
        }

        /// Changed literal packets reach deeper than random ones; what comes out is one whole packet.
        #[test]
        fn changed_packets_never_panic(
            which in 0_usize..6,
            changes in prop::collection::vec((0_usize..30, any::<u8>()), 0..6),
            length in 0_usize..=62,
        ) {
            let gue = [&[0, 41, 0, 0][..], &INNER6].concat();
            let (open, packet) = [
                (OPEN[0], with(&[])),
                (OPEN[0], six_in_four()),
                (OPEN[1], INNER4.to_vec()),
                (OPEN[2], INNER6.to_vec()),
                (OPEN[3], INNER6.to_vec()),
                (OPEN[3], gue),
            ][which].clone();
            let mut packet = changed(packet, &changes);
            packet.truncate(length);
            if let Ok(inner) = open(&mut packet).and_then(Decapsulated::into_inner) {
                let view = crate::packet::Packet::parse(inner);
                match inner[0] >> 4 {
                    4 => prop_assert_eq!(usize::from(view.unwrap().meta().length), inner.len()),
                    6 => prop_assert_eq!(usize::from(word(inner, 4)) + 40, inner.len()),
                    other => prop_assert!(false, "version {}", other),
                }
            }
        }
    }
}
