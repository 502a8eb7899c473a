//! Which packets may come out of the tunnel: a pure decision about one packet.
//!
//! A decapsulator that takes anything lets whoever reaches it send packets with any source from inside
//! this machine (RFC 2003 §6). So: only to the VIPs, only from the directors where they are given, and
//! never from an address of this machine itself.

use std::net::IpAddr;

use hashbrown::HashSet;
use ipnet::IpNet;

use crate::packet::decap::{self, DecapError};

type AddressSet = HashSet<IpAddr, ahash::RandomState>;

/// Why a packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A header does not fit its bytes.
    Malformed,
    /// Something other than IPv4 is inside.
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
}

impl Admission {
    /// Rules for these VIPs; an empty list of directors admits any outer source.
    #[must_use]
    pub fn new(vips: &[IpAddr], directors: &[IpNet]) -> Self {
        Self {
            vips: vips.iter().copied().collect(),
            directors: directors.to_vec(),
            local: AddressSet::default(),
        }
    }

    /// Replaces the addresses of this machine.
    pub fn set_local_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.local.clear();
        self.local.extend(addresses);
    }

    /// Opens a tunnel packet (outer header first) and returns the inner one, ready for injection.
    ///
    /// # Errors
    /// The [`Refusal`], never [`Refusal::InjectionFailed`].
    pub fn admit<'a>(&self, outer: &'a mut [u8]) -> Result<&'a [u8], Refusal> {
        let packet = decap::open(outer)?;
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

    /// A VIP is local even where it is no address of a device (a local route, or not set up yet).
    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.vips.contains(&address) || self.local.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let directors: Vec<_> = directors.iter().map(|net| net.parse().unwrap()).collect();
        let mut admission = Admission::new(&[IpAddr::from([10, 0, 0, 100])], &directors);
        admission.set_local_addresses([IpAddr::from([10, 0, 1, 11])]);
        admission
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
                "6in4",
                &any,
                packet(&[(8, [64, 41, 0, 0])]),
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
            assert_eq!(rules.admit(&mut packet), expected, "{description}");
        }
    }

    #[test]
    fn local_addresses_are_replaced() {
        let mut rules = admission(&[]);
        rules.set_local_addresses([IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(rules.admit(&mut packet(&[])), Err(Refusal::LocalSource));
        rules.set_local_addresses([]);
        assert!(rules.admit(&mut packet(&[])).is_ok());
    }

    proptest! {
        /// Whatever the bytes: no panic, and what comes out goes to the VIP.
        #[test]
        fn random_bytes_never_pass(mut bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(inner) = admission(&[]).admit(&mut bytes) {
                prop_assert_eq!(&inner[16..20], [10, 0, 0, 100]);
            }
        }
    }
}
