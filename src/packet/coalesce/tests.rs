//! Literal packets for the rules, and a segmenter written from the kernel's text as the oracle: what it makes
//! of the frames are the packets that came.

use super::*;
use crate::packet::checksum::{Sum, checksum};
use proptest::prelude::*;

const CLIENTS: [u8; 2] = [7, 8];
const ACK: u8 = 0x10;
const PSH_ACK: u8 = 0x18;

/// What a packet is made from.
#[derive(Debug, Clone)]
struct Made {
    v6: bool,
    tcp: bool,
    client: u8,
    identification: u16,
    dont_fragment: bool,
    class: u8,
    hops: u8,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            v6: false,
            tcp: true,
            client: CLIENTS[0],
            identification: 1,
            dont_fragment: true,
            class: 0,
            hops: 63,
            sequence: 1000,
            acknowledgement: 77,
            flags: ACK,
            window: 500,
            options: Vec::new(),
            payload: vec![0xab; 10],
        }
    }
}

impl Made {
    fn packet(&self) -> Vec<u8> {
        let transport = self.transport();
        let protocol = if self.tcp { 6 } else { 17 };
        let length = u16::try_from(transport.len()).unwrap();
        let (mut packet, addresses) = if self.v6 {
            let [high, low] = length.to_be_bytes();
            let first = [0x60 | self.class >> 4, self.class << 4, 0x12, 0x34];
            let mut header = [&first[..], &[high, low, protocol, self.hops]].concat();
            header.extend([&[0xfd; 15][..], &[self.client], &[0xfc; 16]].concat());
            (header, 8)
        } else {
            let total = (length + 20).to_be_bytes();
            let id = self.identification.to_be_bytes();
            let bits = if self.dont_fragment { 0x40 } else { 0 };
            let mut header = vec![0x45, self.class, total[0], total[1], id[0], id[1], bits, 0];
            header.extend([
                self.hops,
                protocol,
                0,
                0,
                192,
                0,
                2,
                self.client,
                10,
                0,
                0,
                100,
            ]);
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            (header, 12)
        };
        let sum = Sum::default()
            .add_bytes(&packet[addresses..])
            .add_word(protocol.into())
            .add_word(length)
            .add_bytes(&transport)
            .finish();
        let field = packet.len() + if self.tcp { 16 } else { 6 };
        packet.extend(transport);
        let sum = if sum == 0 && !self.tcp { 0xffff } else { sum };
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [40_000_u16.to_be_bytes(), 443_u16.to_be_bytes()].concat();
        if !self.tcp {
            let length = u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes();
            return [&ports[..], &length, &[0, 0], &self.payload].concat();
        }
        let offset = u8::try_from(((20 + self.options.len()) / 4) << 4).unwrap();
        let words = [
            self.sequence.to_be_bytes(),
            self.acknowledgement.to_be_bytes(),
        ]
        .concat();
        let window = self.window.to_be_bytes();
        let rest = [offset, self.flags, window[0], window[1], 0, 0, 0, 0];
        [&ports[..], &words, &rest, &self.options, &self.payload].concat()
    }
}

/// `number` packets of 10 bytes each, one after the other; `change` has the position.
fn run(number: u16, change: impl Fn(u16, &mut Made)) -> Vec<Vec<u8>> {
    let one = |position: u16| {
        let mut made = Made {
            identification: 1 + position,
            sequence: 1000 + 10 * u32::from(position),
            ..Made::default()
        };
        change(position, &mut made);
        made.packet()
    };
    (0..number).map(one).collect()
}

/// How many packets are in each frame, and what each frame says, from the header for the kernel on.
fn frames(packets: &[Vec<u8>]) -> Vec<(u16, Vec<u8>)> {
    let mut coalescer = Coalescer::default();
    let mut window = coalescer.window();
    packets.iter().for_each(|packet| window.push(packet));
    let frames = window.frames().map(|frame| {
        let parts = std::iter::once(frame.header()).chain(frame.payloads());
        (frame.count(), parts.collect::<Vec<_>>().concat())
    });
    frames.collect()
}

fn counts(packets: &[Vec<u8>]) -> Vec<u16> {
    frames(packets).iter().map(|(count, _)| *count).collect()
}

/// Takes a frame apart as `tcp_gso_segment` and `__udp_gso_segment` do.
fn segmented(frame: &[u8]) -> Vec<Vec<u8>> {
    let (vnet, packet) = frame.split_at(VnetHeader::LENGTH);
    let word = |at: usize| usize::from(u16::from_ne_bytes([vnet[at], vnet[at + 1]]));
    let (header_bytes, size, start, offset) = (word(2), word(4), word(6), word(8));
    if vnet[1] == 0 {
        return vec![packet.to_vec()];
    }
    assert_eq!(
        vnet[0], 1,
        "the kernel must be told to complete the checksum"
    );
    let (header, payload) = packet.split_at(header_bytes);
    let last = payload.len().div_ceil(size) - 1;
    let segment = |(position, payload): (usize, &[u8])| {
        let mut made = [header, payload].concat();
        let length = u16::try_from(made.len()).unwrap();
        if made[0] >> 4 == 4 {
            assert_eq!(checksum(&header[..20]), 0);
            let id = u16::from_be_bytes([made[4], made[5]]) + u16::try_from(position).unwrap();
            made[2..4].copy_from_slice(&length.to_be_bytes());
            made[4..6].copy_from_slice(&id.to_be_bytes());
            made[10..12].fill(0);
            let sum = checksum(&made[..20]).to_be_bytes();
            made[10..12].copy_from_slice(&sum);
        } else {
            made[4..6].copy_from_slice(&(length - 40).to_be_bytes());
        }
        let of_transport = length - u16::try_from(start).unwrap();
        if vnet[1] == 5 {
            made[start + 4..start + 6].copy_from_slice(&of_transport.to_be_bytes());
        } else {
            let sequence = u32::from_be_bytes(made[start + 4..start + 8].try_into().unwrap());
            let sequence = sequence.wrapping_add(u32::try_from(position * size).unwrap());
            made[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            if position < last {
                made[start + 13] &= !0x09;
            }
        }
        // The field holds the sum for the whole; what changes is the length.
        let field = start + offset;
        let whole = u16::from_be_bytes([header[field], header[field + 1]]);
        let total = u16::try_from(packet.len() - start).unwrap();
        made[field..field + 2].fill(0);
        let sum = Sum::default()
            .add_word(whole)
            .add_word(!total)
            .add_word(of_transport)
            .add_bytes(&made[start..])
            .finish();
        let sum = if sum == 0 && vnet[1] == 5 {
            0xffff
        } else {
            sum
        };
        made[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        made
    };
    payload.chunks(size).enumerate().map(segment).collect()
}

#[test]
fn segments_that_follow_one_another_are_one() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let packets = run(5, |_, made| (made.v6, made.tcp) = (v6, tcp));
        let frames = frames(&packets);
        assert_eq!(frames.len(), 1, "IPv6 {v6}, TCP {tcp}");
        assert_eq!(segmented(&frames[0].1), packets, "IPv6 {v6}, TCP {tcp}");
    }
}

/// The bytes for the kernel, literally. The TCP checksum is the sum of the pseudo-header: 192.0.2.7, 10.0.0.100,
/// protocol 6, 40 bytes.
#[test]
fn a_super_packet_of_two() {
    let packets = run(2, |position, made| {
        made.payload = vec![u8::try_from(position).unwrap(); 10]
    });
    let words = [40_u16, 10, 20, 16].map(u16::to_ne_bytes).concat();
    let expected = [
        &[1, 1][..],
        &words,
        &[0x45, 0, 0, 60, 0, 1, 0x40, 0, 63, 6, 0x6f, 0x50],
        &[192, 0, 2, 7, 10, 0, 0, 100],
        &[0x9c, 0x40, 0x01, 0xbb, 0, 0, 3, 0xe8, 0, 0, 0, 77],
        &[0x50, 0x10, 1, 0xf4, 0xcc, 0x99, 0, 0],
        &[0; 10],
        &[1; 10],
    ];
    assert_eq!(frames(&packets), [(2, expected.concat())]);
}

#[test]
fn what_differs_stays_apart() {
    type Change = fn(&mut Made);
    let changes: [(&str, Change); 12] = [
        ("acknowledgement", |made| made.acknowledgement += 1),
        ("window", |made| made.window += 1),
        ("options", |made| made.options = vec![1; 4]),
        ("ECE", |made| made.flags |= 0x40),
        ("CWR", |made| made.flags |= 0x80),
        ("URG", |made| made.flags |= 0x20),
        ("a gap", |made| made.sequence += 1),
        ("congestion", |made| made.class |= 3),
        ("hops", |made| made.hops -= 1),
        ("DF", |made| made.dont_fragment = false),
        ("identification", |made| made.identification += 5),
        ("longer", |made| made.payload.push(0)),
    ];
    for (name, change) in changes {
        let packets = run(3, |position, made| {
            if position == 1 {
                change(made);
            }
        });
        assert_eq!(counts(&packets), [1, 1, 1], "{name}");
    }
}

#[test]
fn ends_of_a_run() {
    for (name, flags, expected) in [
        ("PSH", PSH_ACK, &[3, 2][..]),
        ("FIN", 0x11, &[3, 2]),
        ("SYN", 0x12, &[2, 1, 2]),
        ("RST", 0x14, &[2, 1, 2]),
    ] {
        let packets = run(5, |position, made| {
            if position == 2 {
                made.flags = flags;
            }
        });
        assert_eq!(counts(&packets), expected, "{name}");
        let again: Vec<_> = frames(&packets)
            .iter()
            .flat_map(|f| segmented(&f.1))
            .collect();
        assert_eq!(again, packets, "{name}");
    }
    let shorter = |tcp: bool| {
        run(4, |position, made| {
            made.tcp = tcp;
            if position == 1 {
                made.payload.pop();
            }
        })
    };
    assert_eq!(counts(&shorter(true)), [2, 2]);
    assert_eq!(counts(&shorter(false)), [2, 2]);
    let acknowledgements = run(3, |_, made| made.payload.clear());
    assert_eq!(counts(&acknowledgements), [1, 1, 1]);
}

#[test]
fn a_wrong_checksum_stays_alone() {
    for tcp in [true, false] {
        for (at, name) in [(11, "header"), (-1, "payload")] {
            for position in 0..3 {
                let mut packets = run(3, |_, made| made.tcp = tcp);
                let packet = &mut packets[position];
                let at = if at < 0 { packet.len() - 1 } else { 11 };
                packet[at] ^= 1;
                let frames = frames(&packets);
                let alone = frames
                    .iter()
                    .find(|frame| frame.1[10..] == packets[position]);
                let header = &alone.unwrap_or_else(|| panic!("{name} of {position}")).1[..10];
                assert_eq!(header, [0; 10], "{name} of {position}");
            }
        }
    }
    let without = run(3, |_, made| made.tcp = false);
    let without = without.into_iter().map(|mut packet| {
        packet[26..28].fill(0);
        packet
    });
    assert_eq!(counts(&without.collect::<Vec<_>>()), [1, 1, 1]);
}

/// A partial checksum is the kernel's own word: such packets are joined, and one alone is told as partial.
#[test]
fn partial_checksums() {
    let mut packets = run(3, |_, _| {});
    for packet in &mut packets {
        let sum = Sum::default()
            .add_bytes(&packet[12..20])
            .add_word(6)
            .add_word(30);
        packet[36..38].copy_from_slice(&(!sum.finish()).to_be_bytes());
    }
    assert_eq!(counts(&packets), [3]);
    let alone = frames(&packets[..1]);
    let header = VnetHeader::decode(*alone[0].1.first_chunk().unwrap()).unwrap();
    let checksum = header.checksum.unwrap();
    assert_eq!(
        (checksum.start, checksum.offset, header.gso),
        (20, 16, None)
    );
    assert_eq!(alone[0].1[10..], packets[0]);
}

#[test]
fn identifications() {
    let atomic = run(4, |_, made| made.identification = 9);
    assert_eq!(counts(&atomic), [4]);
    let reused = run(4, |_, made| {
        (made.identification, made.dont_fragment) = (9, false)
    });
    assert_eq!(counts(&reused), [1; 4]);
    let rising = run(4, |_, made| made.dont_fragment = false);
    assert_eq!(counts(&rising), [4]);
    let mixed = run(3, |position, made| {
        made.identification = [9, 9, 11][usize::from(position)]
    });
    assert_eq!(counts(&mixed), [2, 1]);
}

#[test]
fn flows_are_joined_side_by_side() {
    let packets = run(8, |position, made| {
        made.client = CLIENTS[usize::from(position % 2)];
        made.sequence = 1000 + 10 * u32::from(position / 2);
        made.identification = position / 2;
        made.tcp = position % 4 < 2;
    });
    assert_eq!(counts(&packets).iter().sum::<u16>(), 8);
    let udp = run(8, |position, made| {
        made.client = CLIENTS[usize::from(position % 2)];
        made.identification = position / 2;
        made.tcp = false;
    });
    assert_eq!(counts(&udp), [4, 4]);
}

#[test]
fn a_super_packet_has_its_limits() {
    let many = run(130, |_, _| {});
    assert_eq!(counts(&many), [64, 64, 2]);
    let large = run(50, |position, made| {
        made.payload = vec![1; 1448];
        made.sequence = 1448 * u32::from(position);
    });
    assert_eq!(counts(&large), [45, 5], "of 65,535 bytes at most");
}

#[test]
fn what_is_no_tcp_or_udp_is_handed_on() {
    let mut packets = run(3, |_, _| {});
    packets[0][9] = 1;
    packets[1][6] = 0x20;
    packets[2][0] = 0x46;
    packets.push(vec![0x60; 40]);
    packets.push(vec![]);
    packets.push(vec![0x45]);
    let frames = frames(&packets);
    assert_eq!(frames.len(), 6);
    for ((count, frame), packet) in frames.iter().zip(&packets) {
        assert_eq!((*count, &frame[10..]), (1, &packet[..]));
    }
}

#[test]
fn udp_is_left_alone_where_the_kernel_cannot_take_it() {
    let packets = run(3, |_, made| made.tcp = false);
    let mut coalescer = Coalescer::default();
    coalescer.set_udp(UdpRule::Leave);
    let mut window = coalescer.window();
    packets.iter().for_each(|packet| window.push(packet));
    assert_eq!(window.frames().count(), 3);
}

#[test]
fn a_window_is_used_again() {
    let packets = run(u16::try_from(WINDOW).unwrap(), |_, _| {});
    let mut coalescer = Coalescer::default();
    let mut window = coalescer.window();
    packets.iter().for_each(|packet| window.push(packet));
    assert!(window.is_full());
    window.push(&packets[0]);
    assert_eq!(window.frames().map(|frame| frame.count()).sum::<u16>(), 256);
    window.clear();
    window.push(&packets[1]);
    assert_eq!(window.frames().count(), 1);
    assert_eq!(coalescer.window().frames().count(), 0);
}

/// What one window joined leaves no trace in the next.
#[test]
fn windows_do_not_mix() {
    let long = run(9, |_, _| {});
    let short = run(9, |position, made| {
        if position == 2 || position == 5 {
            made.flags = PSH_ACK;
        }
    });
    let mut coalescer = Coalescer::default();
    for packets in [&long, &short, &long] {
        let mut window = coalescer.window();
        packets.iter().for_each(|packet| window.push(packet));
        let left: Vec<_> = window
            .frames()
            .flat_map(|frame| {
                let packets: Vec<_> = frame.packets().collect();
                assert_eq!(packets.len(), usize::from(frame.count()));
                packets
            })
            .collect();
        assert_eq!(&left, packets);
    }
}

/// A packet that mostly continues its flow: the oracle has much to take apart.
fn made() -> impl Strategy<Value = (u8, Made)> {
    let change = prop_oneof![12 => Just(0_u8), 1 => 1_u8..14];
    let flow = (0_u8..2, any::<bool>(), any::<bool>());
    (flow, change, 1_usize..4, any::<u8>()).prop_map(|((client, v6, tcp), change, length, byte)| {
        let mut made = Made {
            client: CLIENTS[usize::from(client)],
            v6,
            tcp,
            payload: vec![byte; 8],
            ..Made::default()
        };
        match change {
            1 => made.acknowledgement += 1,
            2 => made.window += 1,
            3 => made.options = vec![1; 4 * length],
            4 => made.flags = PSH_ACK,
            5 => made.flags = 0x11,
            6 => made.flags = byte,
            7 => made.class = byte,
            8 => made.hops = byte,
            9 => made.dont_fragment = false,
            10..=12 => made.payload.truncate(length),
            13 => made.payload.clear(),
            _ => {}
        }
        (change, made)
    })
}

proptest! {
    /// Taken apart, the frames are the packets that came: all of them, each flow in its order. Only the
    /// identification of atomic datagrams may be another.
    #[test]
    fn segmentation_gives_back_what_came(
        made in prop::collection::vec(made(), 1..200),
        broken in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..60, any::<u8>()), 0..4),
    ) {
        let mut next = std::collections::BTreeMap::new();
        let mut packets = Vec::new();
        for (_, mut made) in made {
            let key = (made.client, made.v6, made.tcp);
            let (sequence, identification) = next.entry(key).or_insert((1000_u32, 5_u16));
            (made.sequence, made.identification) = (*sequence, *identification);
            *sequence += u32::try_from(made.payload.len()).unwrap();
            *identification += 1;
            packets.push((key, made.packet()));
        }
        for (which, at, value) in broken {
            let index = which.index(packets.len());
            if let Some(byte) = packets[index].1.get_mut(at) {
                *byte = value;
            }
        }
        let bytes: Vec<_> = packets.iter().map(|(_, packet)| packet.clone()).collect();
        let again: Vec<_> = frames(&bytes).iter().flat_map(|frame| segmented(&frame.1)).collect();
        prop_assert_eq!(again.len(), bytes.len());
        // By flow, as its header says (a broken packet may say another one).
        let by_flow = |packets: &[Vec<u8>]| {
            let mut flows = std::collections::BTreeMap::<_, Vec<_>>::new();
            for packet in packets {
                let ends = Headers::of(packet).map(|headers| {
                    let (addresses, ports) = headers.ends(packet).unwrap();
                    (addresses.to_vec(), ports.to_vec(), headers.protocol == Protocol::Tcp)
                });
                flows.entry(ends).or_default().push(without_atomic_identification(packet));
            }
            flows
        };
        prop_assert_eq!(by_flow(&again), by_flow(&bytes));
    }

    #[test]
    fn random_bytes_are_handed_on(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..20)
    ) {
        let packets: Vec<_> = packets;
        let again: usize = frames(&packets).iter().map(|(count, _)| usize::from(*count)).sum();
        prop_assert_eq!(again, packets.len());
    }
}

fn without_atomic_identification(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] == 0x45 && packet[6] & 0x40 != 0 && checksum(&packet[..20]) == 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
