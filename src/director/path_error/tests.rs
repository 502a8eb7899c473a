use super::*;
use crate::director::{
    AllDown, BackendSpec, BackendState, Echo, FlowLimits, FlowTimeouts, HashFields, HashKey, Mss,
    Plan, PortMatch, Protocol, RingSize, VipSpec,
};
use crate::packet::checksum::checksum;
use crate::packet::{EntropyPrefix, FlowKey, SourceRule};
use proptest::prelude::*;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroUsize};

const GUE: EncapKind = EncapKind::Gue {
    port: NonZeroU16::new(6080).unwrap(),
};

fn vip(address: &str, protocol: Protocol, encap: EncapKind, backend: &str) -> VipSpec {
    VipSpec {
        name: format!("{address}/{protocol}"),
        address: address.parse().unwrap(),
        port: PortMatch::Exact(NonZeroU16::new(80).unwrap()),
        protocol,
        hash: HashFields::FiveTuple,
        echo: Echo::Reply,
        mss: Mss::Keep,
        all_down: AllDown::Forward,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: None,
        encap,
        backends: vec![BackendSpec {
            address: backend.parse().unwrap(),
            weight: 1,
            state: BackendState::Active,
        }],
    }
}

/// 4in4, 6in4, 4in6 and GUE, each with its own backend; `source` by the backend's family.
fn snapshot(source: impl Fn(IpAddr) -> SourceRule) -> Snapshot {
    let vips = [
        vip("203.0.113.10", Protocol::Tcp, EncapKind::Ipip, "10.0.1.11"),
        vip("2001:db8::10", Protocol::Tcp, EncapKind::Ipip, "10.0.1.12"),
        vip("203.0.113.10", Protocol::Udp, EncapKind::Ipip, "fd00::11"),
        vip("203.0.113.11", Protocol::Udp, GUE, "10.0.1.13"),
    ];
    let plan = Plan {
        vips: &vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::new(251).unwrap(),
        flows: FlowLimits {
            bound: NonZeroUsize::new(10).unwrap(),
            timeouts: FlowTimeouts::default(),
        },
    };
    let tunnel = |vip: &VipSpec, backend| {
        Encap::new(
            vip.encap,
            source(backend),
            backend,
            NonZeroU8::new(64).unwrap(),
        )
    };
    let snapshot = Snapshot::build(&plan, tunnel).unwrap();
    for (index, _) in snapshot.backends() {
        snapshot.path_mtus().configure(index, NonZeroU32::new(1520));
    }
    snapshot
}

fn fixed(backend: IpAddr) -> SourceRule {
    let source = if backend.is_ipv4() {
        "10.0.0.2"
    } else {
        "fd00::2"
    };
    SourceRule::Fixed(source.parse().unwrap())
}

fn unspecified(backend: IpAddr) -> SourceRule {
    let source = if backend.is_ipv4() { "0.0.0.0" } else { "::" };
    SourceRule::Fixed(source.parse().unwrap())
}

fn entropy(backend: IpAddr) -> SourceRule {
    let prefix = if backend.is_ipv4() {
        "172.16.0.0/16"
    } else {
        "100::/64"
    };
    SourceRule::Entropy(EntropyPrefix::new(prefix.parse().unwrap()).unwrap())
}

/// A packet of `length` bytes from port 40000 of a client to port 80 of a VIP, its first bytes.
fn inner(vip: &str, protocol: u8, length: u16) -> Vec<u8> {
    let mut packet = match vip.parse().unwrap() {
        IpAddr::V4(vip) => {
            let [high, low] = length.to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 7, 0x40, 0, 63, protocol, 0, 0];
            header.extend([192, 0, 2, 1]);
            header.extend(vip.octets());
            header
        }
        IpAddr::V6(vip) => {
            let [high, low] = (length - 40).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 63];
            header.extend([0xfc; 16]);
            header.extend(vip.octets());
            header
        }
    };
    packet.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1]);
    packet
}

/// An outer header with DF, and what it carries.
fn outer(source: &str, destination: &str, protocol: u8, length: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = length.to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 63, protocol, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = (length - 40).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 63];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("{source} to {destination}"),
    };
    packet.extend(payload);
    packet
}

/// A UDP header before a packet of 1472 bytes.
fn gue(source_port: u16, port: u16, inner: &[u8]) -> Vec<u8> {
    let mut datagram = [source_port.to_be_bytes(), port.to_be_bytes()].concat();
    datagram.extend([5, 0xc8, 0, 0]);
    datagram.extend(inner);
    datagram
}

/// What comes of an error, sent to `to`, that names `mtu`.
fn examined(snapshot: &Snapshot, to: &str, mtu: u16, quoted: &[u8]) -> Result<(), Disbelief> {
    let [high, low] = mtu.to_be_bytes();
    if quoted[0] >> 4 == 6 {
        let message = [&[2, 0, 0, 0, 0, 0, high, low], quoted].concat();
        return snapshot.examine(&PathMtuError::parse_v6(&message).unwrap());
    }
    let packet = packet(to, mtu, quoted);
    snapshot.examine(&PathMtuError::parse_packet(&packet).unwrap())
}

/// An error of IPv4 from a router.
fn packet(to: &str, mtu: u16, quoted: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let mut message = [&[3, 4, 0, 0, 0, 0, high, low], quoted].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let total = u16::try_from(20 + message.len()).unwrap().to_be_bytes();
    let IpAddr::V4(to) = to.parse().unwrap() else {
        panic!("{to}");
    };
    let mut packet = vec![
        0x45, 0, total[0], total[1], 0, 0, 0, 0, 60, 1, 0, 0, 198, 51, 100, 1,
    ];
    packet.extend(to.octets());
    packet.extend(message);
    packet
}

fn with(bytes: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for &(at, value) in changes {
        bytes[at] = value;
    }
    bytes
}

const DIRECTOR: &str = "10.0.0.2";
const SOURCE: Disbelief = Disbelief::Source(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3)));

/// An IPIP packet of 1500 bytes to the first backend.
fn quoted() -> Vec<u8> {
    outer(
        DIRECTOR,
        "10.0.1.11",
        4,
        1500,
        &inner("203.0.113.10", 6, 1480),
    )
}

#[test]
fn what_a_tunnel_sent_is_believed_however_little_is_quoted() {
    let snapshot = snapshot(fixed);
    let quoted = quoted();
    for end in [28, 29, 40, 44, quoted.len()] {
        assert_eq!(
            examined(&snapshot, DIRECTOR, 1400, &quoted[..end]),
            Ok(()),
            "{end} bytes"
        );
    }
    let six_in_four = outer(
        DIRECTOR,
        "10.0.1.12",
        41,
        1500,
        &inner("2001:db8::10", 6, 1480),
    );
    assert_eq!(examined(&snapshot, DIRECTOR, 1400, &six_in_four), Ok(()));
    let four_in_six = outer(
        "fd00::2",
        "fd00::11",
        4,
        1500,
        &inner("203.0.113.10", 17, 1460),
    );
    assert_eq!(examined(&snapshot, "", 1400, &four_in_six), Ok(()));
    assert_eq!(
        examined(&snapshot, DIRECTOR, 0, &quoted),
        Ok(()),
        "an old router"
    );
    assert_eq!(examined(&snapshot, DIRECTOR, 68, &quoted), Ok(()));
}

/// Every single field that is wrong.
#[test]
fn what_no_tunnel_sent_is_refused() {
    let snapshot = snapshot(fixed);
    let quoted = quoted();
    let fits = |mtu| Disbelief::Fits { length: 1500, mtu };
    let elsewhere = Disbelief::NoBackend([10, 0, 1, 99].into());
    for (what, mtu, changes, expected) in [
        ("an MTU that the packet fits", 1500, &[][..], fits(1500)),
        ("a larger MTU", 9000, &[], fits(9000)),
        ("an MTU that no link has", 67, &[], Disbelief::Mtu(67)),
        ("another destination", 1400, &[(19, 99)], elsewhere),
        ("without DF", 1400, &[(6, 0)], Disbelief::Fragmentable),
        ("a fragment", 1400, &[(6, 0x60)], Disbelief::Fragmentable),
        ("a later fragment", 1400, &[(7, 5)], Disbelief::Fragmentable),
        (
            "another protocol",
            1400,
            &[(9, 41)],
            Disbelief::Protocol(41),
        ),
        ("TCP", 1400, &[(9, 6)], Disbelief::Protocol(6)),
        ("another length", 1400, &[(3, 0xdb)], Disbelief::Inner),
        (
            "longer than the TUN's packets",
            1400,
            &[(2, 0x10)],
            Disbelief::TooLong(0x10dc),
        ),
        (
            "another version inside",
            1400,
            &[(20, 0x65)],
            Disbelief::Inner,
        ),
        ("another length inside", 1400, &[(22, 4)], Disbelief::Inner),
        ("without DF inside", 1400, &[(26, 0)], Disbelief::Inner),
        (
            "another destination inside",
            1400,
            &[(39, 99)],
            Disbelief::Inner,
        ),
        ("another VIP's port", 1400, &[(43, 81)], Disbelief::Inner),
        (
            "another VIP's protocol",
            1400,
            &[(29, 17)],
            Disbelief::Inner,
        ),
    ] {
        let found = examined(&snapshot, DIRECTOR, mtu, &with(&quoted, changes));
        assert_eq!(found, Err(expected), "{what}");
    }
    let packet = packet(DIRECTOR, 1400, &quoted);
    let own = PathMtuError {
        sender: Some([10, 0, 0, 2].into()),
        ..PathMtuError::parse_packet(&packet).unwrap()
    };
    assert_eq!(snapshot.examine(&own), Err(Disbelief::Own));
    let other = with(&quoted, &[(15, 3)]);
    let sent_there = Disbelief::Destination([10, 0, 0, 2].into());
    assert_eq!(examined(&snapshot, DIRECTOR, 1400, &other), Err(sent_there));
    assert_eq!(examined(&snapshot, "10.0.0.3", 1400, &other), Err(SOURCE));
}

#[test]
fn ipv6_has_a_least_mtu() {
    let snapshot = snapshot(fixed);
    let quoted = outer(
        "fd00::2",
        "fd00::11",
        4,
        1500,
        &inner("203.0.113.10", 17, 1460),
    );
    assert_eq!(examined(&snapshot, "", 1280, &quoted), Ok(()));
    assert_eq!(
        examined(&snapshot, "", 1279, &quoted),
        Err(Disbelief::Mtu(1279))
    );
    let source = Disbelief::Source("fd00::3".parse().unwrap());
    assert_eq!(
        examined(&snapshot, "", 1400, &with(&quoted, &[(23, 3)])),
        Err(source)
    );
    let fragment = outer("fd00::2", "fd00::11", 44, 1500, &[4, 0, 0, 1, 0, 0, 0, 9]);
    assert_eq!(
        examined(&snapshot, "", 1400, &fragment),
        Err(Disbelief::Fragmentable)
    );
}

#[test]
fn gue_headers() {
    let snapshot = snapshot(fixed);
    let carried = inner("203.0.113.11", 17, 1472);
    let flow = FlowKey {
        source: [192, 0, 2, 1].into(),
        destination: [203, 0, 113, 11].into(),
        source_port: 40_000,
        destination_port: 80,
        protocol: Protocol::Udp,
    };
    let port = 0xc000 | u16::try_from(snapshot.flow_hash(&flow) & 0xffff).unwrap();
    let quoted = |from, to| outer(DIRECTOR, "10.0.1.13", 17, 1500, &gue(from, to, &carried));
    let right = quoted(port, 6080);
    assert_eq!(examined(&snapshot, DIRECTOR, 1400, &right), Ok(()));
    for (what, found) in [
        (
            "another flow's source port",
            examined(&snapshot, DIRECTOR, 1400, &quoted(port ^ 1, 6080)),
        ),
        (
            "another port",
            examined(&snapshot, DIRECTOR, 1400, &quoted(port, 6081)),
        ),
        (
            "a port that no flow has",
            examined(&snapshot, DIRECTOR, 1400, &quoted(80, 6080)[..28]),
        ),
        (
            "another length",
            examined(&snapshot, DIRECTOR, 1400, &with(&right, &[(25, 0)])),
        ),
        (
            "no ports",
            examined(&snapshot, DIRECTOR, 1400, &right[..22]),
        ),
    ] {
        assert_eq!(found, Err(Disbelief::Gue), "{what}");
    }
    let short = &quoted(port ^ 1, 6080)[..28];
    assert_eq!(
        examined(&snapshot, DIRECTOR, 1400, short),
        Ok(()),
        "no flow to compare with"
    );
    let ipip = outer(DIRECTOR, "10.0.1.13", 4, 1500, &carried);
    let protocol = Err(Disbelief::Protocol(4));
    assert_eq!(examined(&snapshot, DIRECTOR, 1400, &ipip), protocol);
}

#[test]
fn an_entropy_source_is_the_flow_s() {
    let snapshot = snapshot(entropy);
    let flow = FlowKey {
        source: [192, 0, 2, 1].into(),
        destination: [203, 0, 113, 10].into(),
        source_port: 40_000,
        destination_port: 80,
        protocol: Protocol::Tcp,
    };
    let [.., a, b] = snapshot.flow_hash(&flow).to_be_bytes();
    let found = |a: u8, b: u8, end: usize| {
        let source = format!("172.16.{a}.{b}");
        let quoted = outer(
            &source,
            "10.0.1.11",
            4,
            1500,
            &inner("203.0.113.10", 6, 1480),
        );
        examined(&snapshot, &source, 1400, &quoted[..end])
    };
    assert_eq!(found(a, b, 48), Ok(()));
    let other = Disbelief::Source([172, 16, a, b ^ 1].into());
    assert_eq!(found(a, b ^ 1, 48), Err(other));
    assert_eq!(found(a, b ^ 1, 28), Ok(()), "no flow to compare with");
    let outside = outer(
        "172.17.0.1",
        "10.0.1.11",
        4,
        1500,
        &inner("203.0.113.10", 6, 1480),
    );
    let outside = examined(&snapshot, "172.17.0.1", 1400, &outside[..28]);
    assert_eq!(outside, Err(Disbelief::Source([172, 17, 0, 1].into())));
}

/// The kernel chose the source, and delivered the error where it was sent.
#[test]
fn a_source_of_the_kernel_s_choice() {
    let snapshot = snapshot(unspecified);
    assert_eq!(examined(&snapshot, DIRECTOR, 1400, &quoted()), Ok(()));
    let four_in_six = outer(
        "fd00::2",
        "fd00::11",
        4,
        1500,
        &inner("203.0.113.10", 17, 1460),
    );
    let found = examined(&snapshot, "", 1400, &four_in_six);
    assert_eq!(found, Err(Disbelief::Source("fd00::2".parse().unwrap())));
    let nowhere = outer("::", "fd00::11", 4, 1500, &inner("203.0.113.10", 17, 1460));
    assert!(examined(&snapshot, "", 1400, &nowhere).is_err());
}

proptest! {
    /// Whatever is quoted: no panic, and what is believed names less than the packet's length.
    #[test]
    fn any_quotation(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0usize..48, mtu: u16) {
        let snapshot = snapshot(entropy);
        for good in [quoted(), outer("fd00::2", "fd00::11", 4, 1500, &inner("203.0.113.10", 17, 1460))] {
            let mut changed = good;
            changed.iter_mut().skip(at.max(1)).zip(&bytes).for_each(|(byte, &other)| *byte = other);
            let mut message = [&[2, 0, 0, 0, 0, 0][..], &mtu.to_be_bytes(), &changed].concat();
            if let Some(error) = PathMtuError::parse_v6(&message) {
                let found = snapshot.examine(&error);
                prop_assert!(found.is_err() || error.mtu < error.quoted.length && error.mtu >= 1280);
            }
            message[0] = 3;
            message[1] = 4;
            let sum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
            let total = u16::try_from(20 + message.len()).unwrap().to_be_bytes();
            let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 60, 1, 0, 0, 198, 51, 100, 1];
            packet.extend([10, 0, 0, 2]);
            packet.extend(message);
            if let Some(error) = PathMtuError::parse_packet(&packet) {
                let found = snapshot.examine(&error);
                prop_assert!(found.is_err() || error.mtu < error.quoted.length && error.mtu >= 68);
            }
        }
    }
}
