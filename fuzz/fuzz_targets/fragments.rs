//! A stream of fragments: five bytes each make a well-formed fragment for a VIP (identification,
//! offset, flags, length, time), so that the fuzzer reaches the table's states at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb_fuzz::{Site, Stream, VIP4, VIP6, drive};

fuzz_target!(|data: &[u8]| {
    let mut stream = Vec::new();
    for &[time, identification, offset, length, kind] in data.as_chunks().0 {
        let packet = fragment(identification, offset, length, kind);
        stream.push(time);
        stream.extend((packet.len() as u16).to_be_bytes());
        stream.extend(packet);
    }
    drive(&mut Site::default(), Stream(&stream));
});

/// Bits of `kind`: IPv6, more follow, TCP, a port without a service (or, of TCP, an echo request), long.
fn fragment(identification: u8, offset: u8, length: u8, kind: u8) -> Vec<u8> {
    let bit = |bit: u8| kind >> bit & 1;
    let length = if bit(4) == 1 {
        usize::from(length) * 64
    } else {
        usize::from(length)
    };
    let echo = bit(2) == 1 && bit(3) == 1;
    let protocol = match (echo, bit(2), bit(0)) {
        (true, _, 0) => 1,
        (true, ..) => 58,
        (false, 1, _) => 6,
        _ => 17,
    };
    let port = if bit(3) == 1 { 81 } else { 80 };
    let mut payload = vec![
        0x9c, 0x40, 0, port, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0x50, 0x10,
    ];
    if echo {
        payload[0] = if bit(0) == 0 { 8 } else { 128 };
    }
    payload.resize((20 + length).next_multiple_of(8 - 7 * usize::from(1 - bit(1))), 0);
    let offset = u16::from(offset);
    if bit(0) == 0 {
        let total = (20 + payload.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend(total.to_be_bytes());
        packet.extend([0, identification]);
        packet.extend((u16::from(bit(1)) << 13 | offset).to_be_bytes());
        packet.extend([64, protocol, 0, 0, 192, 0, 2, kind >> 5]);
        packet.extend(VIP4);
        packet.extend(payload);
        packet
    } else {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend([44, 64]);
        packet.extend([
            0x20,
            1,
            0x0d,
            0xb8,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            kind >> 5,
        ]);
        packet.extend(VIP6);
        packet.extend([protocol, 0]);
        packet.extend((offset << 3 | u16::from(bit(1))).to_be_bytes());
        packet.extend([0, 0, 0, identification]);
        packet.extend(payload);
        packet
    }
}
