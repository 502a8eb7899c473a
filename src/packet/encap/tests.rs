use super::*;
use crate::packet::checksum::{Sum, checksum};
use crate::packet::{Packet, Transport};
use proptest::prelude::*;

const TTL: NonZeroU8 = NonZeroU8::new(64).unwrap();
const GUE: EncapKind = EncapKind::Gue {
    port: NonZeroU16::new(6080).unwrap(),
};

fn tunnel(kind: EncapKind, source: &str, destination: &str) -> Encap {
    let source = SourceRule::Fixed(source.parse().unwrap());
    Encap::new(kind, source, destination.parse().unwrap(), TTL).unwrap()
}

fn meta(version: Version, length: u16, traffic_class: u8, dont_fragment: bool) -> Meta {
    Meta {
        version,
        length,
        traffic_class,
        dont_fragment,
        segmentation: None,
    }
}

/// The outer header written for `inner`; checks that the rest of the head-room is untouched.
fn outer(encap: &Encap, meta: &Meta, inner: &[u8], entropy: Entropy) -> Vec<u8> {
    let mut headroom = [0xaa; HEADROOM];
    let inner = [inner, &[]];
    encap.write(&mut headroom, meta, inner, entropy).unwrap();
    let start = HEADROOM - encap.overhead();
    assert!(headroom[..start].iter().all(|&byte| byte == 0xaa));
    headroom[start..].to_vec()
}

const NO_ENTROPY: Entropy = Entropy {
    flow_hash: 0,
    identification: 0x1234,
};

#[test]
fn ipv4_in_ipv4_with_df() {
    let encap = tunnel(EncapKind::Ipip, "10.0.0.2", "10.0.1.11");
    let expected = [
        0x45, 0xb9, 0x00, 0x50, 0x00, 0x00, 0x40, 0x00, 0x40, 0x04, 0x24, 0xe5, 10, 0, 0, 2, 10, 0,
        1, 11,
    ];
    let meta = meta(Version::V4, 60, 0xb9, true);
    assert_eq!(outer(&encap, &meta, &[0; 60], NO_ENTROPY), expected);
}

#[test]
fn identification_where_df_is_clear() {
    let encap = tunnel(EncapKind::Ipip, "10.0.0.2", "10.0.1.11");
    let header = outer(
        &encap,
        &meta(Version::V4, 60, 0, false),
        &[0; 60],
        NO_ENTROPY,
    );
    assert_eq!(header[4..8], [0x12, 0x34, 0, 0]);
    assert_eq!(checksum(&header), 0);
}

#[test]
fn ipv6_in_ipv4_is_protocol_41() {
    let encap = tunnel(EncapKind::Ipip, "10.0.0.2", "10.0.1.11");
    let header = outer(
        &encap,
        &meta(Version::V6, 60, 0, true),
        &[0; 60],
        NO_ENTROPY,
    );
    assert_eq!((header[9], header[6]), (41, 0x40));
}

#[test]
fn over_ipv6() {
    let encap = tunnel(EncapKind::Ipip, "2001:db8::2", "2001:db8:1::11");
    for (version, next_header) in [(Version::V4, 4), (Version::V6, 41)] {
        let header = outer(&encap, &meta(version, 60, 0xb9, true), &[0; 60], NO_ENTROPY);
        assert_eq!(header[..8], [0x6b, 0x90, 0, 0, 0, 60, next_header, 64]);
        assert_eq!(
            header[8..24],
            "2001:db8::2"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets()
        );
        assert_eq!(
            header[24..],
            "2001:db8:1::11"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets()
        );
    }
}

#[test]
fn gue_over_ipv4_has_no_checksum() {
    let encap = tunnel(GUE, "10.0.0.2", "10.0.1.11");
    let entropy = Entropy {
        flow_hash: 0x0000_0000_0000_0105,
        identification: 0,
    };
    let header = outer(&encap, &meta(Version::V4, 60, 0, true), &[0; 60], entropy);
    assert_eq!((header.len(), header[3], header[9]), (28, 88, 17));
    assert_eq!(header[20..], [0xc1, 0x05, 0x17, 0xc0, 0, 68, 0, 0]);
}

#[test]
fn gue_over_ipv6_has_one() {
    let encap = tunnel(GUE, "2001:db8::2", "2001:db8:1::11");
    let inner = [0x45, 1, 2, 3, 4, 5, 6];
    let header = outer(&encap, &meta(Version::V4, 7, 0, true), &inner, NO_ENTROPY);
    assert_eq!((header.len(), header[6], header[5]), (48, 17, 15));
    let sum = Sum::default()
        .add_bytes(&header[8..40])
        .add_word(15)
        .add_word(17)
        .add_bytes(&header[40..])
        .add_bytes(&inner);
    assert_ne!(header[46..], [0, 0]);
    assert_eq!(sum.finish(), 0);
}

#[test]
fn entropy_sources() {
    let rule =
        |prefix: &str| SourceRule::Entropy(EntropyPrefix::new(prefix.parse().unwrap()).unwrap());
    let v4 = Encap::new(
        EncapKind::Ipip,
        rule("172.16.0.0/16"),
        "10.0.1.11".parse().unwrap(),
        TTL,
    );
    assert_eq!(
        v4.unwrap().source(0xdead_beef_1234),
        "172.16.18.52".parse::<IpAddr>().unwrap()
    );
    let v6 = Encap::new(
        EncapKind::Ipip,
        rule("100::/64"),
        "2001:db8::1".parse().unwrap(),
        TTL,
    );
    assert_eq!(
        v6.unwrap().source(0xdead_beef),
        "100::dead:beef".parse::<IpAddr>().unwrap()
    );
    assert_eq!(
        EntropyPrefix::new("10.0.0.1/32".parse().unwrap()),
        Err(EntropyPrefixError)
    );
    let mixed = Encap::new(
        EncapKind::Ipip,
        rule("100::/64"),
        "10.0.1.11".parse().unwrap(),
        TTL,
    );
    assert!(mixed.is_err());
}

#[test]
fn longest_packet() {
    for (source, destination, kind, longest) in [
        ("10.0.0.2", "10.0.1.11", EncapKind::Ipip, 65_515),
        ("10.0.0.2", "10.0.1.11", GUE, 65_507),
        ("2001:db8::2", "2001:db8::3", EncapKind::Ipip, 65_535),
        ("2001:db8::2", "2001:db8::3", GUE, 65_527),
    ] {
        let encap = tunnel(kind, source, destination);
        let mut headroom = [0; HEADROOM];
        let mut write = |length| {
            encap.write(
                &mut headroom,
                &meta(Version::V4, length, 0, true),
                [&[]; 2],
                NO_ENTROPY,
            )
        };
        assert_eq!(write(longest), Ok(()));
        if let Some(length) = longest.checked_add(1) {
            assert_eq!(write(length), Err(TooLong { length }));
        }
    }
}

proptest! {
    /// Whatever is encapsulated, our own parser finds a well-formed outer packet.
    #[test]
    fn outer_packets_are_well_formed(v6_outer: bool, v6_inner: bool, gue: bool, df: bool, class: u8, flow_hash: u64, identification: u16, inner in prop::collection::vec(any::<u8>(), 20..200)) {
        let kind = if gue { GUE } else { EncapKind::Ipip };
        let encap = if v6_outer {
            tunnel(kind, "2001:db8::2", "2001:db8::3")
        } else {
            tunnel(kind, "10.0.0.2", "10.0.1.11")
        };
        let version = if v6_inner { Version::V6 } else { Version::V4 };
        let meta = meta(version, u16::try_from(inner.len()).unwrap(), class, df);
        let mut bytes = outer(&encap, &meta, &inner, Entropy { flow_hash, identification });
        if !v6_outer {
            prop_assert_eq!(checksum(&bytes[..20]), 0);
        }
        bytes.extend(&inner);
        let packet = Packet::parse(&bytes).unwrap();
        prop_assert_eq!(packet.meta().traffic_class, class);
        prop_assert_eq!(usize::from(packet.meta().length), bytes.len());
        match packet.transport() {
            Ok(Transport::Udp { key }) => {
                prop_assert!(gue && key.destination_port == 6080 && key.source_port >= 0xc000);
            }
            Ok(Transport::Other(protocol)) => prop_assert_eq!(protocol, if v6_inner { 41 } else { 4 }),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
