//! Which packets may come out of the tunnel: a pure decision about one packet.
//!
//! A decapsulator that takes anything lets whoever reaches it send packets with any source from inside
//! this machine (RFC 2003 §6). So: only to the VIPs, only from the directors where they are given, and
//! never from an address of this machine itself.

use std::net::IpAddr;

use hashbrown::HashSet;
use ipnet::IpNet;

use crate::packet::decap::{DecapError, Decapsulated};

type AddressSet = HashSet<IpAddr, ahash::RandomState>;

/// Why a packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A header does not fit its bytes, or the version that it announces.
    Malformed,
    /// Something other than IP is inside, a GUE control message, or a GUE flag that is not known.
    UnsupportedProtocol,
    /// The outer source is not among the directors.
    NotDirector,
    /// The inner destination is not among the VIPs.
    NotVip,
    /// The inner source is an address of this machine.
    LocalSource,
    /// Congestion was marked for a transport that cannot hear of it (RFC 6040 §4.2).
    Ecn,
    /// The kernel did not take the inner packet from the TUN device.
    InjectionFailed,
}

impl Refusal {
    /// Every reason, in the order in which they are checked.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::UnsupportedProtocol,
        Self::NotDirector,
        Self::NotVip,
        Self::LocalSource,
        Self::Ecn,
        Self::InjectionFailed,
    ];

    /// The name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::NotDirector => "not_director",
            Self::NotVip => "not_vip",
            Self::LocalSource => "local_source",
            Self::Ecn => "ecn",
            Self::InjectionFailed => "injection_failed",
        }
    }
}

impl From<DecapError> for Refusal {
    fn from(error: DecapError) -> Self {
        match error {
            DecapError::Malformed => Self::Malformed,
            DecapError::UnsupportedProtocol => Self::UnsupportedProtocol,
            DecapError::Ecn => Self::Ecn,
        }
    }
}

/// The rules, with the addresses that they are about.
#[derive(Debug, Clone)]
pub struct Admission {
    vips: AddressSet,
    directors: Vec<IpNet>,
    local: AddressSet,
    /// How often `local` changed.
    changes: u64,
}

impl Admission {
    /// Rules for these VIPs; an empty list of directors admits any outer source.
    #[must_use]
    pub fn new(vips: &[IpAddr], directors: &[IpNet]) -> Self {
        Self {
            vips: vips.iter().copied().collect(),
            directors: directors.to_vec(),
            local: AddressSet::default(),
            changes: 0,
        }
    }

    /// The addresses of this machine, as far as they are known.
    pub fn local_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.local.iter().copied()
    }

    /// Another number whenever [`local_addresses`](Self::local_addresses) are others.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// This is an address of this machine from now on.
    pub fn add_local_address(&mut self, address: IpAddr) {
        self.local.insert(address);
        self.changes += 1;
    }

    /// This is no address of this machine any more.
    pub fn remove_local_address(&mut self, address: IpAddr) {
        self.local.remove(&address);
        self.changes += 1;
    }

    /// No address of this machine is known any more.
    pub fn forget_local_addresses(&mut self) {
        self.local.clear();
        self.changes += 1;
    }

    /// Decides about a packet out of its tunnel, and returns it ready for injection.
    ///
    /// # Errors
    /// The [`Refusal`], never [`Refusal::InjectionFailed`].
    pub fn admit<'a>(&self, packet: Decapsulated<'a>) -> Result<&'a mut [u8], Refusal> {
        if !self.is_director(packet.outer_source) {
            return Err(Refusal::NotDirector);
        }
        if !self.vips.contains(&packet.inner_destination) {
            return Err(Refusal::NotVip);
        }
        if self.is_local(packet.inner_source) {
            return Err(Refusal::LocalSource);
        }
        Ok(packet.into_inner()?)
    }

    fn is_director(&self, address: IpAddr) -> bool {
        self.directors.is_empty() || self.directors.iter().any(|net| net.contains(&address))
    }

    /// Whether no client can have this address. A VIP is local even where it is no address of a device
    /// (a local route, or not set up yet). An IPv4 address inside an IPv6 one (`::ffff:127.0.0.1`) is one
    /// to a service that takes both families.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.vips.contains(&address) || self.local.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::decap::{Outer, open_gue, open_ipv4, open_ipv6};
    use proptest::prelude::*;

    const OUTER: [u8; 20] = [
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 4, 0, 0, 10, 0, 1, 1, 10, 0, 1, 11,
    ];
    const INNER: [u8; 20] = [
        0x45, 0, 0, 20, 0, 1, 0, 0, 63, 17, 0, 0, 192, 0, 2, 7, 10, 0, 0, 100,
    ];

    fn packet(changes: &[(usize, [u8; 4])]) -> Vec<u8> {
        let mut packet = [OUTER, INNER].concat();
        for (offset, address) in changes {
            packet[*offset..*offset + 4].copy_from_slice(address);
        }
        packet
    }

    fn admission(directors: &[&str]) -> Admission {
        let parse = |address: &&str| address.parse::<IpAddr>().unwrap();
        let directors: Vec<_> = directors.iter().map(|net| net.parse().unwrap()).collect();
        let vips = ["10.0.0.100", "2001:db8::100"].each_ref().map(parse);
        let mut admission = Admission::new(&vips, &directors);
        for address in ["10.0.1.11", "2001:db8:1::11"] {
            admission.add_local_address(parse(&address));
        }
        admission
    }

    fn admit<'a>(rules: &Admission, packet: &'a mut [u8]) -> Result<&'a [u8], Refusal> {
        rules.admit(open_ipv4(packet)?).map(|inner| &*inner)
    }

    #[test]
    fn decisions() {
        const OUTER_SOURCE: usize = 12;
        const INNER_SOURCE: usize = 32;
        const INNER_DESTINATION: usize = 36;
        let (any, one) = (admission(&[]), admission(&["10.0.1.0/30"]));
        for (description, rules, mut packet, expected) in [
            ("a client's packet", &any, packet(&[]), Ok(&INNER[..])),
            ("from a director", &one, packet(&[]), Ok(&INNER[..])),
            (
                "from elsewhere",
                &one,
                packet(&[(OUTER_SOURCE, [10, 0, 1, 4])]),
                Err(Refusal::NotDirector),
            ),
            (
                "to another address",
                &any,
                packet(&[(INNER_DESTINATION, [10, 0, 1, 11])]),
                Err(Refusal::NotVip),
            ),
            (
                "from this machine",
                &any,
                packet(&[(INNER_SOURCE, [10, 0, 1, 11])]),
                Err(Refusal::LocalSource),
            ),
            (
                "from the VIP",
                &any,
                packet(&[(INNER_SOURCE, [10, 0, 0, 100])]),
                Err(Refusal::LocalSource),
            ),
            (
                "from loopback",
                &any,
                packet(&[(INNER_SOURCE, [127, 1, 2, 3])]),
                Err(Refusal::LocalSource),
            ),
            (
                "GRE",
                &any,
                packet(&[(8, [64, 47, 0, 0])]),
                Err(Refusal::UnsupportedProtocol),
            ),
            (
                "congestion for the deaf",
                &any,
                packet(&[(0, [0x45, 3, 0, 40])]),
                Err(Refusal::Ecn),
            ),
            ("cut short", &any, OUTER.to_vec(), Err(Refusal::Malformed)),
        ] {
            assert_eq!(admit(rules, &mut packet), expected, "{description}");
        }
    }

    #[test]
    fn local_addresses_come_and_go() {
        let mut rules = admission(&[]);
        let client = IpAddr::from([192, 0, 2, 7]);
        rules.add_local_address(client);
        let result = admit(&rules, &mut packet(&[])).map(<[u8]>::len);
        assert_eq!(result, Err(Refusal::LocalSource));
        rules.remove_local_address(client);
        assert!(admit(&rules, &mut packet(&[])).is_ok());
        rules.add_local_address(client);
        rules.forget_local_addresses();
        assert!(admit(&rules, &mut packet(&[])).is_ok());
    }

    /// An IPv6 packet without a payload.
    fn packet6(source: &str, destination: &str) -> Vec<u8> {
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let fixed = [0x60, 0, 0, 0, 0, 0, 59, 64];
        [&fixed[..], &octets(source), &octets(destination)].concat()
    }

    #[test]
    fn the_same_rules_for_ipv6() {
        const VIP: &str = "2001:db8::100";
        let (any, one) = (admission(&[]), admission(&["2001:db8:2::/64"]));
        for (description, rules, director, source, destination, expected) in [
            ("a client's", &any, "10.0.1.1", "2001:db8:9::7", VIP, None),
            (
                "from a director",
                &one,
                "2001:db8:2::1",
                "2001:db8:9::7",
                VIP,
                None,
            ),
            (
                "from elsewhere",
                &one,
                "2001:db8:3::1",
                "2001:db8:9::7",
                VIP,
                Some(Refusal::NotDirector),
            ),
            (
                "from another family",
                &one,
                "10.0.1.1",
                "2001:db8:9::7",
                VIP,
                Some(Refusal::NotDirector),
            ),
            (
                "to another address",
                &any,
                "10.0.1.1",
                "2001:db8:9::7",
                "2001:db8:1::11",
                Some(Refusal::NotVip),
            ),
            (
                "from this machine",
                &any,
                "10.0.1.1",
                "2001:db8:1::11",
                VIP,
                Some(Refusal::LocalSource),
            ),
            (
                "from the VIP",
                &any,
                "10.0.1.1",
                VIP,
                VIP,
                Some(Refusal::LocalSource),
            ),
            (
                "from loopback",
                &any,
                "10.0.1.1",
                "::1",
                VIP,
                Some(Refusal::LocalSource),
            ),
            (
                "from mapped loopback",
                &any,
                "10.0.1.1",
                "::ffff:127.0.0.1",
                VIP,
                Some(Refusal::LocalSource),
            ),
            (
                "from this machine, mapped",
                &any,
                "10.0.1.1",
                "::ffff:10.0.1.11",
                VIP,
                Some(Refusal::LocalSource),
            ),
        ] {
            let outer = Outer {
                source: director.parse().unwrap(),
                traffic_class: 0,
            };
            let mut packet = packet6(source, destination);
            let result = rules.admit(open_gue(outer, &mut packet).unwrap());
            assert_eq!(result.err(), expected, "{description}");
        }
    }

    proptest! {
        /// Whatever the bytes: no panic, and what comes out goes to the VIP.
        #[test]
        fn random_bytes_never_pass(mut bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(inner) = admit(&admission(&[]), &mut bytes) {
                prop_assert_eq!(&inner[16..20], [10, 0, 0, 100]);
            }
            let outer = Outer { source: IpAddr::from([10, 0, 1, 1]), traffic_class: 3 };
            if let Ok(inner) = open_ipv6(outer, 41, &mut bytes)
                .map_err(Refusal::from)
                .and_then(|packet| admission(&[]).admit(packet))
            {
                prop_assert_eq!(&inner[24..40], &packet6("::", "2001:db8::100")[24..]);
            }
        }
    }
}
