//! Views of any bytes: nothing panics, nothing is read beyond the packet, and what a view says fits
//! the bytes. The first byte chooses a tunnel for what parses.
#![no_main]

use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU16};

use libfuzzer_sys::fuzz_target;
use tunlb::packet::{
    Encap, EncapKind, Entropy, HEADROOM, Icmp, Packet, SourceRule, Transport, echo_reply,
    packet_too_big,
};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let Ok(packet) = Packet::parse(bytes) else {
        return;
    };
    let length = usize::from(packet.meta().length);
    assert!(length <= bytes.len() && packet.payload().len() <= length);
    let transport = packet.transport();
    // What follows the packet must not change what it says.
    let whole = Packet::parse(&bytes[..length]).expect("the packet without its padding");
    assert_eq!((whole, whole.transport()), (packet, transport));
    let mut answer = Vec::new();
    if let Ok(Transport::Icmp(Icmp::EchoRequest)) = transport {
        echo_reply(&packet, &mut answer);
        assert!(Packet::parse(&answer).is_ok_and(|reply| reply.source() == packet.destination()));
    }
    packet_too_big(&packet, bytes, 1280, &mut answer);
    let error = Packet::parse(&answer).expect("our own error");
    assert!(error.transport().is_ok() && answer.len() <= 1280);
    encapsulated(&packet, &bytes[..length], choice);
});

/// The outer packet, seen by our own parser.
fn encapsulated(packet: &Packet<'_>, inner: &[u8], choice: u8) {
    let (source, backend): (IpAddr, IpAddr) = if choice & 1 == 0 {
        ([10, 0, 0, 2].into(), [10, 0, 1, 11].into())
    } else {
        ([0xfd; 16].into(), [0xfe; 16].into())
    };
    let kind = if choice & 2 == 0 {
        EncapKind::Ipip
    } else {
        EncapKind::Gue {
            port: NonZeroU16::new(6080).expect("not 0"),
        }
    };
    let ttl = NonZeroU8::new(64).expect("not 0");
    let encap = Encap::new(kind, SourceRule::Fixed(source), backend, ttl).expect("one family");
    let mut headroom = [0; HEADROOM];
    let entropy = Entropy {
        flow_hash: choice.into(),
        identification: 7,
    };
    if encap
        .write(&mut headroom, &packet.meta(), [inner, &[]], entropy)
        .is_err()
    {
        assert!(inner.len() + encap.overhead() > 65_535);
        return;
    }
    let outer = [&headroom[HEADROOM - encap.overhead()..], inner].concat();
    let Ok(view) = Packet::parse(&outer) else {
        assert!(outer.len() > 65_535); // IPv6 may carry it, our views end there
        return;
    };
    assert_eq!(
        (view.destination(), view.meta().traffic_class),
        (backend, packet.meta().traffic_class)
    );
    assert_eq!(usize::from(view.meta().length), outer.len());
    assert!(view.payload().ends_with(inner));
}
