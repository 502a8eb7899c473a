//! Any bytes as an ICMP error about a path: what is believed quotes a packet that a tunnel may have sent.
//! The first byte chooses the family, and whether the checksum is made right.
#![no_main]

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tunlb::director::{Disbelief, PathMtus, Snapshot};
use tunlb::packet::PathMtuError;
use tunlb::packet::checksum::checksum;
use tunlb_fuzz::{BACKENDS, first_snapshot};

static SNAPSHOT: LazyLock<std::sync::Arc<Snapshot>> = LazyLock::new(|| {
    let snapshot = first_snapshot();
    for (index, _) in snapshot.backends() {
        snapshot.path_mtus().configure(index, NonZeroU32::new(LONGEST));
    }
    snapshot
});

const LONGEST: u32 = 1500;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let packet;
    let error = match choice % 3 {
        0 => PathMtuError::parse_v6(bytes),
        1 => PathMtuError::parse_packet(bytes),
        _ => {
            packet = to_this_host(bytes);
            PathMtuError::parse_packet(&packet)
        }
    };
    if let Some(error) = error {
        examine(&error);
    }
});

/// A Fragmentation Needed of 172.16.0.0/16, from the bytes after its checksum on.
fn to_this_host(bytes: &[u8]) -> Vec<u8> {
    let (to, rest) = bytes.split_at(bytes.len().min(2));
    let mut message = [&[3, 4, 0, 0], rest].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let total = (20 + message.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 60, 1, 0, 0, 198, 51, 100, 1, 172, 16]);
    packet.extend([to.first().copied().unwrap_or(0), to.get(1).copied().unwrap_or(0)]);
    packet.extend(message);
    packet
}

fn examine(error: &PathMtuError<'_>) {
    let quoted = &error.quoted;
    match SNAPSHOT.examine(error) {
        Ok(()) => {
            let (source, backend) = (quoted.quoted.source, quoted.quoted.destination);
            assert!(error.mtu < quoted.length && quoted.length <= LONGEST);
            assert!(!quoted.may_be_fragmented && !quoted.is_fragment);
            assert!(error.destination.is_none_or(|destination| destination == source));
            assert!(BACKENDS.iter().any(|text| text.parse() == Ok(backend)));
            let ours = match source {
                IpAddr::V4(v4) => v4.octets().starts_with(&[172, 16]),
                IpAddr::V6(v6) => v6.segments().starts_with(&[0x100, 0, 0, 0]),
            };
            assert!(ours, "{source}");
            assert!(PathMtus::believable(backend, error.mtu) >= 552);
        }
        Err(Disbelief::NoBackend(_)) => {}
        Err(reason) => assert!(!reason.to_string().is_empty()),
    }
}
