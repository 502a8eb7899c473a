//! Any packets in one window: each leaves exactly once, in a frame of whole packets, and a frame of several
//! holds their payloads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::packet::vnet::VnetHeader;
use tunlb::packet::coalesce::{Coalescer, MAX_SEGMENTS, WINDOW};

fuzz_target!(|data: &[u8]| {
    // The first byte of each packet says its length.
    let mut packets = Vec::new();
    let mut rest = data;
    while let Some((length, bytes)) = rest.split_first() {
        let (packet, others) = bytes.split_at(bytes.len().min(usize::from(*length)));
        packets.push(packet);
        rest = others;
    }
    packets.truncate(WINDOW);
    let mut coalescer = Coalescer::default();
    let mut window = coalescer.window();
    packets.iter().for_each(|packet| window.push(packet));
    let mut left = Vec::new();
    for frame in window.frames() {
        let of_frame: Vec<_> = frame.packets().collect();
        assert!(of_frame.len() == usize::from(frame.count()) && of_frame.len() <= MAX_SEGMENTS);
        let headers = frame.header().len() - VnetHeader::LENGTH;
        for (packet, payload) in of_frame.iter().zip(frame.payloads()) {
            assert_eq!(payload, &packet[headers..], "{packet:02x?}");
        }
        left.extend(of_frame);
    }
    left.sort_unstable();
    packets.sort_unstable();
    assert_eq!(left, packets);
});
