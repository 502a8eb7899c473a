//! Any bytes as a tunnel packet: what comes out is one whole IP packet of the bytes that went in.
//! The first byte chooses the socket it came from, the second the traffic class or the protocol.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::packet::Packet;
use tunlb::packet::decap::{Decapsulated, Outer, open_gue, open_ipv4, open_ipv6};

fuzz_target!(|data: &[u8]| {
    let Some(([socket, field], bytes)) = data.split_first_chunk() else {
        return;
    };
    let outer = Outer {
        source: [192, 0, 2, 1].into(),
        traffic_class: *field,
    };
    let mut bytes = bytes.to_vec();
    let opened = match socket % 4 {
        0 => open_ipv4(&mut bytes),
        1 => open_ipv6(outer, 4, &mut bytes),
        2 => open_ipv6(outer, 41, &mut bytes),
        _ => open_gue(outer, &mut bytes),
    };
    if let Ok(inner) = opened.and_then(Decapsulated::into_inner) {
        // The extension chain of IPv6 is the receiving kernel's business.
        let fits = Packet::parse(inner).map_or(inner[0] >> 4 == 6, |packet| {
            usize::from(packet.meta().length) == inner.len()
        });
        assert!(fits, "{inner:02x?}");
    }
});
