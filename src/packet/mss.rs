//! Lowers the MSS option of a TCP segment that opens a connection (RFC 9293 §3.7.1, RFC 6691), with its
//! checksum (RFC 1624).
//!
//! Never raised, and nothing else is touched: a segment without the option, with options that cannot be read,
//! or whose sender signed its options (TCP-AO, RFC 5925) or its packet (AH) stays as it is.

use super::checksum;
use super::parse::{Packet, Transport, Version};

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

/// Kinds of options (RFC 9293 §3.2, RFC 5925 §2.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const AUTHENTICATION: u8 = 29;

/// Bytes of network and TCP header without options, which an MSS leaves out (RFC 6691 §2).
#[must_use]
pub const fn headers_beside_mss(version: Version) -> u16 {
    match version {
        Version::V4 => 40,
        Version::V6 => 60,
    }
}

/// Lowers the MSS of the SYN in `bytes` to `most`; returns whether it was larger.
///
/// Only of a whole packet whose TCP header follows the network header, and whose checksum is complete.
pub fn clamp_mss(bytes: &mut [u8], most: u16) -> bool {
    let Some(start) = syn(bytes) else {
        return false;
    };
    let Some(segment) = bytes.get_mut(start..) else {
        return false;
    };
    let Some(options) = readable_options(segment) else {
        return false;
    };
    let mut lowered = false;
    for at in options.into_iter().flatten() {
        lowered |= lower(segment, at, most);
    }
    lowered
}

/// Where the TCP header of a SYN begins.
fn syn(bytes: &[u8]) -> Option<usize> {
    let packet = Packet::parse(bytes).ok()?;
    if packet.fragment().is_some() {
        return None;
    }
    match packet.transport() {
        Ok(Transport::Tcp { flags, .. }) if flags.opens => {}
        _ => return None,
    }
    let header = match packet.meta().version {
        Version::V4 => usize::from(bytes.first()? & 0xf) * 4,
        Version::V6 => 40,
    };
    let end = usize::from(packet.meta().length);
    (end - packet.payload().len() == header).then_some(header)
}

/// An MSS option takes 4 of at most 40 bytes.
const MOST_OPTIONS: usize = 10;

/// Where the values of MSS options are in a segment; there should be one. `None` where the options are not
/// to be touched.
fn readable_options(segment: &[u8]) -> Option<[Option<usize>; MOST_OPTIONS]> {
    let end = usize::from(segment.get(12)? >> 4) * 4;
    let options = segment.get(..end)?;
    let (mut found, mut count, mut at) = ([None; MOST_OPTIONS], 0, TCP_HEADER);
    while at < end {
        let length = match options[at] {
            END => break,
            NO_OPERATION => 1,
            AUTHENTICATION => return None,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                let is_mss = kind == MAXIMUM_SEGMENT_SIZE;
                if length < 2 || at + length > end || is_mss && length != 4 {
                    return None;
                }
                if is_mss {
                    *found.get_mut(count)? = Some(at + 2);
                    count += 1;
                }
                length
            }
        };
        at += length;
    }
    Some(found)
}

fn lower(segment: &mut [u8], at: usize, most: u16) -> bool {
    let Some([high, low]) = segment
        .get(at..at + 2)
        .and_then(|value| value.first_chunk())
    else {
        return false;
    };
    let before = u16::from_be_bytes([*high, *low]);
    if before <= most {
        return false;
    }
    segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
    let sum = u16::from_be_bytes([segment[16], segment[17]]);
    // A value at an odd place is in two words of the sum, which adds the same as with its bytes swapped.
    let word = |value: u16| {
        if at.is_multiple_of(2) {
            value
        } else {
            value.swap_bytes()
        }
    };
    let sum = checksum::update(sum, word(before), word(most));
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::Sum;
    use proptest::prelude::*;

    const SYN: u8 = 2;

    /// A TCP segment with these options, padded with no-operation to whole words.
    fn segment(v6: bool, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), NO_OPERATION);
        let offset = u8::try_from((TCP_HEADER + options.len()) / 4).unwrap() << 4;
        let mut tcp = vec![
            0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, offset, flags, 0xfa, 0xf0, 0, 0, 0, 0,
        ];
        tcp.extend(options);
        tcp.extend(data);
        let length = u16::try_from(tcp.len()).unwrap();
        let mut packet = if v6 {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([6, 64]);
            header.extend([0x20; 16]);
            header.extend([0x21; 16]);
            header
        } else {
            let mut header = vec![0x45, 0];
            header.extend((length + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 203, 0, 113, 10]);
            header
        };
        let start = packet.len();
        packet.extend(tcp);
        let sum = sum_of(&packet, start);
        packet[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// 0 where the checksum of the TCP segment at `start` is right.
    fn sum_of(packet: &[u8], start: usize) -> u16 {
        let addresses = if start == 40 { 8..40 } else { 12..20 };
        Sum::default()
            .add_bytes(&packet[addresses])
            .add_word(6)
            .add_word(u16::try_from(packet.len() - start).unwrap())
            .add_bytes(&packet[start..])
            .finish()
    }

    const MSS_1460: [u8; 4] = [2, 4, 0x05, 0xb4];

    #[test]
    fn a_literal_syn() {
        for v6 in [false, true] {
            let start = if v6 { 40 } else { 20 };
            let options = [
                &MSS_1460[..],
                &[4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7],
            ]
            .concat();
            let before = segment(v6, SYN, &options, &[]);
            let mut after = before.clone();
            assert!(clamp_mss(&mut after, 1440));
            assert_eq!(after[start + 20..start + 24], [2, 4, 0x05, 0xa0]);
            assert_eq!(sum_of(&after, start), 0);
            let differs = |at: &usize| before[*at] != after[*at];
            let changed: Vec<_> = (0..before.len()).filter(differs).collect();
            assert_eq!(changed, [start + 17, start + 23]);
            assert!(!clamp_mss(&mut after, 1440), "once is enough");
        }
    }

    #[test]
    fn what_is_not_touched() {
        let syn = |options: &[u8]| segment(false, SYN, options, &[]);
        let mut fragment = syn(&MSS_1460);
        fragment[6] = 0x20;
        let mut hop_by_hop = segment(true, SYN, &MSS_1460, &[]);
        hop_by_hop.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
        (hop_by_hop[5], hop_by_hop[6]) = (32, 0);
        let mut authenticated = syn(&MSS_1460);
        authenticated[9] = 51;
        for (what, packet) in [
            ("no option", syn(&[])),
            (
                "an established connection's",
                segment(false, 0x10, &MSS_1460, b"abc"),
            ),
            ("SYN-ACK", segment(false, 0x12, &MSS_1460, &[])),
            ("smaller already", syn(&[2, 4, 0x02, 0x18])),
            ("as large", syn(&[2, 4, 0x05, 0xa0])),
            ("a length of 3", syn(&[2, 3, 5, 0xb4, 0])),
            ("a length of 0", syn(&[8, 0, 2, 4, 5, 0xb4])),
            ("an option that is too long", syn(&[2, 4, 5, 0xb4, 8, 40])),
            ("cut by the end of the header", syn(&[1, 1, 1, 2])),
            ("behind the end of options", syn(&[0, 2, 4, 5, 0xb4])),
            ("TCP-AO", syn(&[2, 4, 5, 0xb4, 29, 4, 1, 1])),
            ("a fragment", fragment),
            ("an extension header", hop_by_hop),
            ("AH", authenticated),
            (
                "UDP",
                vec![
                    0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0, 2,
                    0, 8, 0, 0,
                ],
            ),
        ] {
            let mut after = packet.clone();
            assert!(!clamp_mss(&mut after, 1440), "{what}");
            assert_eq!(after, packet, "{what}");
        }
    }

    #[test]
    fn bytes_behind_the_packet_are_not_part_of_it() {
        let packet = segment(false, SYN, &MSS_1460, &[]);
        let mut padded = [&packet[..], &[0; 6]].concat();
        assert!(clamp_mss(&mut padded, 1440));
        assert_eq!(sum_of(&padded[..packet.len()], 20), 0);
    }

    fn options() -> impl Strategy<Value = Vec<u8>> {
        let option = prop_oneof![
            Just(vec![NO_OPERATION]),
            any::<u16>().prop_map(|mss| [&[2, 4][..], &mss.to_be_bytes()].concat()),
            Just(vec![4, 2]),
            Just(vec![3, 3, 7]),
            prop::collection::vec(any::<u8>(), 1..4),
        ];
        prop::collection::vec(option, 0..6).prop_map(|options| options.concat())
    }

    proptest! {
        /// Whatever the options: the checksum stays as right as it was, only values of MSS options and the
        /// checksum differ, and no value is raised.
        #[test]
        fn only_lower_values_and_their_checksum(
            v6: bool, flags: u8, options in options(), data in prop::collection::vec(any::<u8>(), 0..9),
            most: u16, wrong: u16,
        ) {
            let start = if v6 { 40 } else { 20 };
            let mut before = segment(v6, flags, &options, &data);
            let field = start + 16..start + 18;
            let sum = u16::from_be_bytes([before[field.start], before[field.start + 1]]) ^ wrong;
            before[field.clone()].copy_from_slice(&sum.to_be_bytes());
            let mut after = before.clone();
            let changed = clamp_mss(&mut after, most);
            prop_assert_eq!(changed, before != after);
            prop_assert_eq!(sum_of(&before, start), sum_of(&after, start));
            let mut other = after.clone();
            other[field.clone()].copy_from_slice(&before[field]);
            for at in start + 22..before.len() {
                if before[at - 2..at] == [2, 4] && at + 1 < before.len() {
                    let value = |bytes: &[u8]| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                    prop_assert!(value(&after) <= value(&before));
                    if value(&after) != value(&before) {
                        prop_assert_eq!(value(&after), most);
                        other[at..at + 2].copy_from_slice(&before[at..at + 2]);
                    }
                }
            }
            prop_assert_eq!(other, before);
        }

        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..120), most: u16) {
            clamp_mss(&mut bytes, most);
        }
    }
}
