use super::*;
use crate::packet::checksum::checksum;
use crate::packet::vnet::PartialChecksum;
use crate::packet::{BURST, Burst, Entropy, Outgoing, Piece, TunnelId};
use proptest::prelude::*;

/// A TCP header of 20 bytes and `options`, with this sequence number and these flags.
fn tcp(sequence: u32, flags: u8, options: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let mut header = vec![0x9c, 0x40, 0, 80];
    header.extend(sequence.to_be_bytes());
    header.extend([0, 0, 0, 1, words << 4, flags, 2, 0, 0, 0, 0, 0]);
    header.extend(options);
    header
}

/// A packet from 192.0.2.7 to 10.0.0.100, or the IPv6 one, around `payload`.
fn packet(version: Version, identification: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match version {
        Version::V4 => {
            let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let [high, low] = identification.to_be_bytes();
            let mut header = vec![0x45, 3, length[0], length[1], high, low, 0x40, 0, 63];
            header.extend([protocol, 0, 0, 192, 0, 2, 7, 10, 0, 0, 100]);
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        Version::V6 => {
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let mut header = vec![0x60, 0x30, 0, 9, length[0], length[1], protocol, 63];
            header.extend([0xfd; 16]);
            header.extend([0xfe; 16]);
            header
        }
    };
    packet.extend(payload);
    packet
}

/// As [`packet`], with its transport checksum, written anew: what the kernel's segment must be.
fn complete(version: Version, identification: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = packet(version, identification, protocol, payload);
    let (start, addresses) = match version {
        Version::V4 => (20, 12..20),
        Version::V6 => (40, 8..40),
    };
    let field = start + if protocol == 6 { 16 } else { 6 };
    let mut covered = packet[addresses].to_vec();
    covered.extend(u32::from(protocol).to_be_bytes());
    covered.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    covered.extend(&packet[start..]);
    let sum = match (checksum(&covered), protocol) {
        (0, 17) => 0xffff,
        (sum, _) => sum,
    };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

const fn says(gso: Gso, size: u16, start: u16, offset: u16) -> VnetHeader {
    VnetHeader {
        checksum: Some(PartialChecksum { start, offset }),
        gso: Some((gso, size)),
        header_length: 0,
    }
}

fn of_tcp(version: Version, size: u16) -> VnetHeader {
    let start = match version {
        Version::V4 => 20,
        Version::V6 => 40,
    };
    says(Gso::Tcp(version), size, start, 16)
}

/// All packets that a super-packet leaves as, through a burst.
fn leave(bytes: &[u8], header: &VnetHeader) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut burst = Burst::new(65_535);
    burst.vacant(0).unwrap()[..bytes.len()].copy_from_slice(bytes);
    let segmentation = Segmentation::of(bytes, header)?.expect("a super-packet");
    burst.push_super(bytes.len(), segmentation);
    let whole = Outgoing {
        frame: 0,
        piece: Piece::Whole,
        tunnel: TunnelId(3),
        meta: Packet::parse(bytes)?.meta(),
        entropy: Entropy {
            flow_hash: 0,
            identification: 0,
        },
    };
    let mut pieces = Vec::new();
    burst.pieces(whole, |piece| pieces.push(piece));
    let longest = pieces.iter().map(|piece| piece.meta.length).max();
    assert_eq!(longest, Some(segmentation.longest(whole.meta.length)));
    assert_eq!(pieces.len(), segmentation.segments(bytes.len()));
    Ok(pieces
        .iter()
        .map(|piece| burst.with_header(piece, 0).concat())
        .collect())
}

#[test]
fn flags_of_the_first_and_of_the_last() {
    let data = [7; 25];
    // CWR, ACK, PSH and FIN.
    let payload = [tcp(0xffff_fffa, 0x99, &[1, 1, 1, 0]), data.to_vec()].concat();
    let bytes = packet(Version::V4, 0xffff, 6, &payload);
    let expected: Vec<_> = [
        (0xffff_fffa, 0x90, 10, 0xffff),
        (4, 0x10, 10, 0),
        (14, 0x19, 5, 1),
    ]
    .into_iter()
    .map(|(sequence, flags, length, identification)| {
        let payload = [tcp(sequence, flags, &[1, 1, 1, 0]), vec![7; length]].concat();
        complete(Version::V4, identification, 6, &payload)
    })
    .collect();
    assert_eq!(leave(&bytes, &of_tcp(Version::V4, 10)), Ok(expected));
}

#[test]
fn lies_about_a_super_packet() {
    let bytes = packet(
        Version::V4,
        1,
        6,
        &[tcp(1, 0x10, &[]), vec![1; 100]].concat(),
    );
    let good = of_tcp(Version::V4, 10);
    assert!(leave(&bytes, &good).is_ok());
    let lies = [
        of_tcp(Version::V4, 0),
        of_tcp(Version::V4, 1),
        of_tcp(Version::V4, SMALLEST_TCP - 1),
        of_tcp(Version::V6, 10),
        says(Gso::Tcp(Version::V4), 10, 40, 16),
        says(Gso::Tcp(Version::V4), 10, 65_535, 16),
        says(Gso::Tcp(Version::V4), 10, 20, 6),
        says(Gso::Udp, 10, 20, 6),
        VnetHeader {
            checksum: None,
            ..good
        },
    ];
    for lie in lies {
        assert_eq!(Segmentation::of(&bytes, &lie), Err(Malformed), "{lie:?}");
    }
    for length in 0..=40 {
        let cut = &bytes[..length];
        assert_eq!(Segmentation::of(cut, &good), Err(Malformed), "{length}");
    }
    let mut fragment = bytes.clone();
    fragment[6] = 0x20;
    let mut short_header = bytes.clone();
    short_header[32] = 0x40;
    let mut long_header = bytes;
    long_header[32] = 0xf0;
    for (bytes, name) in [(fragment, "fragment"), (short_header, "short")] {
        assert_eq!(Segmentation::of(&bytes, &good), Err(Malformed), "{name}");
    }
    assert!(
        Segmentation::of(&long_header, &good).is_ok(),
        "options of 40 bytes"
    );
}

#[test]
fn what_fits_its_path_is_no_super_packet() {
    let header = VnetHeader::default();
    assert_eq!(Segmentation::of(&[], &header), Ok(None));
}

#[test]
fn a_burst_counts_segments() {
    let payload = [tcp(1, 0x10, &[]), vec![1; 64_000]].concat();
    let bytes = packet(Version::V4, 1, 6, &payload);
    let mut burst = Burst::new(65_535);
    let mut filled = 0;
    while let Some(room) = burst.vacant(0) {
        room[..bytes.len()].copy_from_slice(&bytes);
        let segmentation = Segmentation::of(&bytes, &of_tcp(Version::V4, 1448)).unwrap();
        burst.push_super(bytes.len(), segmentation.unwrap());
        filled += 64_000_usize.div_ceil(1448);
    }
    assert_eq!(filled, 90);
    assert!(filled > BURST);
}

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V4), Just(Version::V6)]
}

proptest! {
    /// Each segment is what a sender without segmentation offload would have sent.
    #[test]
    fn tcp_segments_are_the_sender_s(
        version in versions(),
        data in prop::collection::vec(any::<u8>(), 1..5000),
        size in SMALLEST_TCP..1500,
        (sequence, identification, flags) in any::<(u32, u16, u8)>(),
        options in prop::sample::select(vec![0_usize, 4, 12, 40]),
    ) {
        let options = vec![1; options];
        let payload = [tcp(sequence, flags, &options), data.clone()].concat();
        let bytes = packet(version, identification, 6, &payload);
        let chunks = data.chunks(size.into());
        let last = chunks.len() - 1;
        let expected: Vec<_> = chunks.enumerate().map(|(number, chunk)| {
            let mut flags = flags;
            if number < last { flags &= !0x09; }
            if number > 0 { flags &= !0x80; }
            let sent = u32::try_from(number * usize::from(size)).unwrap();
            let header = tcp(sequence.wrapping_add(sent), flags, &options);
            let number = u16::try_from(number).unwrap();
            complete(version, identification.wrapping_add(number), 6, &[&header[..], chunk].concat())
        }).collect();
        prop_assert_eq!(leave(&bytes, &of_tcp(version, size)).unwrap(), expected);
    }

    #[test]
    fn datagrams_are_the_sender_s(
        version in versions(),
        data in prop::collection::vec(any::<u8>(), 1..5000),
        size in SMALLEST_UDP..1500,
        identification: u16,
    ) {
        let udp = |data: &[u8]| {
            let length = u16::try_from(8 + data.len()).unwrap().to_be_bytes();
            [&[0xc0, 1, 0x01, 0xbb, length[0], length[1], 0, 0], data].concat()
        };
        let bytes = packet(version, identification, 17, &udp(&data));
        let start = if version == Version::V4 { 20 } else { 40 };
        let expected: Vec<_> = data.chunks(size.into()).enumerate().map(|(number, chunk)| {
            let number = u16::try_from(number).unwrap();
            complete(version, identification.wrapping_add(number), 17, &udp(chunk))
        }).collect();
        prop_assert_eq!(leave(&bytes, &says(Gso::Udp, size, start, 6)).unwrap(), expected);
    }

    /// Whatever the header says of whatever bytes: no panic, and no packet longer than the whole.
    #[test]
    fn no_lie_makes_a_segment(
        header: [u8; VnetHeader::LENGTH],
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0_u8..6,
    ) {
        let mut header = header;
        header[1] = kind;
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() { *first = 0x45; }
        if let Ok(says) = VnetHeader::decode(header)
            && let Ok(Some(segmentation)) = Segmentation::of(&bytes, &says)
        {
            let length = u16::try_from(bytes.len()).unwrap();
            prop_assert!(segmentation.longest(length) <= length);
            prop_assert!(leave(&bytes, &says).is_ok());
        }
    }
}
