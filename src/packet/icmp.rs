//! ICMP and ICMPv6 as far as a balancer needs them: echo requests, and errors with the packet that
//! they quote. Read first: RFC 792, RFC 4443 §3 and §4, RFC 4884.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::flow::{FlowKey, Protocol};
use super::parse::{Malformed, Version, walk_extensions};

/// Bytes before the body of every message that matters here: type, code, checksum, four more.
const HEADER: usize = 8;

/// An ICMP or ICMPv6 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmp {
    /// An echo request.
    EchoRequest,
    /// An error about a packet sent earlier.
    Error(Quoted),
    /// Anything else.
    Other,
}

/// The packet that an error quotes, as far as the quotation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Who sent the quoted packet: the address that the error must be addressed to.
    pub source: IpAddr,
    /// Destination address of the quoted packet.
    pub destination: IpAddr,
    /// What it carried, past extension headers.
    pub protocol: u8,
    /// Its ports, source first; `None` for a protocol without, a later fragment, or a quotation
    /// that ends before them.
    pub ports: Option<(u16, u16)>,
}

impl Icmp {
    /// Reads the message in `bytes`, of the ICMP that belongs to `version`.
    ///
    /// # Errors
    /// [`Malformed`] when the message is shorter than its header. An error whose quotation cannot
    /// be read is [`Icmp::Other`]: it is well-formed, and about nothing that can be found.
    pub fn parse(version: Version, bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, body) = bytes.split_at_checked(HEADER).ok_or(Malformed)?;
        Ok(match (version, header[0]) {
            (Version::V4, 8) | (Version::V6, 128) => Self::EchoRequest,
            (Version::V4, 3 | 11 | 12) => Quoted::parse_v4(body).map_or(Self::Other, Self::Error),
            (Version::V6, 1..=4) => Quoted::parse_v6(body).map_or(Self::Other, Self::Error),
            _ => Self::Other,
        })
    }
}

impl Quoted {
    /// The flow that the quoted packet answers: the packet turned around. It was sent by a backend
    /// from the VIP, so the flow is from its destination to its source.
    #[must_use]
    pub fn flow(&self) -> Option<FlowKey> {
        self.sent_flow().map(FlowKey::turned_around)
    }

    /// The flow of the quoted packet itself, where it was sent to a VIP.
    #[must_use]
    pub fn sent_flow(&self) -> Option<FlowKey> {
        let protocol = match self.protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let (source_port, destination_port) = self.ports?;
        Some(FlowKey {
            source: self.source,
            destination: self.destination,
            source_port,
            destination_port,
            protocol,
        })
    }

    /// Reads the start of a packet of either version; `None` where its network header is not whole.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    pub(super) fn parse_v4(quoted: &[u8]) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(quoted).ok()?;
        let rest = quoted.get(header.slice().len()..)?;
        let has_ports = header.fragments_offset().value() == 0;
        Some(Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: header.protocol().0,
            ports: if has_ports { ports(rest) } else { None },
        })
    }

    pub(super) fn parse_v6(quoted: &[u8]) -> Option<Self> {
        let header = Ipv6HeaderSlice::from_slice(quoted).ok()?;
        let rest = quoted.get(header.slice().len()..)?;
        let chain = walk_extensions(header.next_header().0, rest).ok()?;
        let has_ports = chain.fragment.is_none_or(|fragment| fragment.offset == 0);
        Some(Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: chain.protocol,
            ports: if has_ports {
                ports(chain.payload)
            } else {
                None
            },
        })
    }
}

/// The first four bytes of TCP and UDP; RFC 792 promises eight in every quotation.
fn ports(transport: &[u8]) -> Option<(u16, u16)> {
    let bytes: [u8; 4] = *transport.first_chunk()?;
    let [a, b, c, d] = bytes;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Fragmentation needed (1300), quoting 28 bytes of 203.0.113.10:80 -> 192.0.2.1:40000.
    const NEEDED: [u8; 36] = [
        3, 4, 0, 0, 0, 0, 5, 0x14, // ICMP
        0x45, 0, 5, 0xdc, 0, 1, 0x40, 0, 63, 6, 0, 0, 203, 0, 113, 10, 192, 0, 2, 1, // IPv4
        0, 80, 0x9c, 0x40, 0, 0, 0, 1,
    ];

    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = NEEDED.to_vec();
        for &(at, value) in changes {
            bytes[at] = value;
        }
        bytes
    }

    fn flow(bytes: &[u8]) -> Option<String> {
        match Icmp::parse(Version::V4, bytes).unwrap() {
            Icmp::Error(quoted) => quoted.flow().map(|flow| flow.to_string()),
            Icmp::EchoRequest | Icmp::Other => None,
        }
    }

    #[test]
    fn a_quotation_is_turned_around() {
        let expected = Some("192.0.2.1:40000 -> 203.0.113.10:80/tcp".to_owned());
        for kind in [3, 11, 12] {
            assert_eq!(flow(&with(&[(0, kind)])), expected, "type {kind}");
        }
        let udp = flow(&with(&[(17, 17)]));
        assert_eq!(
            udp.as_deref(),
            Some("192.0.2.1:40000 -> 203.0.113.10:80/udp")
        );
    }

    #[test]
    fn nothing_to_find() {
        for (what, bytes) in [
            ("quoted ICMP", with(&[(17, 1)])),
            ("a later fragment", with(&[(15, 1)])),
            ("a quotation without ports", NEEDED[..28].to_vec()),
            ("a quotation with half a header", NEEDED[..20].to_vec()),
            ("a redirect", with(&[(0, 5)])),
            ("an echo reply", with(&[(0, 0)])),
        ] {
            assert_eq!(flow(&bytes), None, "{what}");
        }
        assert_eq!(Icmp::parse(Version::V4, &NEEDED[..7]), Err(Malformed));
    }

    #[test]
    fn packet_too_big() {
        let mut bytes = vec![2, 0, 0, 0, 0, 0, 5, 0, 0x60, 0, 0, 0, 5, 0xa0, 6, 60];
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([0, 80, 0x9c, 0x40, 0, 0, 0, 1]);
        let Ok(Icmp::Error(quoted)) = Icmp::parse(Version::V6, &bytes) else {
            panic!("an error with a quotation");
        };
        let flow = quoted.flow().unwrap().to_string();
        assert_eq!(flow, "[2001:db8::1]:40000 -> [2001:db8::10]:80/tcp");
    }

    #[test]
    fn echo_requests() {
        let message = |kind| [kind, 0, 0, 0, 0, 1, 0, 1];
        assert_eq!(Icmp::parse(Version::V4, &message(8)), Ok(Icmp::EchoRequest));
        assert_eq!(
            Icmp::parse(Version::V6, &message(128)),
            Ok(Icmp::EchoRequest)
        );
        assert_eq!(Icmp::parse(Version::V6, &message(8)), Ok(Icmp::Other));
    }

    proptest! {
        #[test]
        fn never_panics(v6: bool, bytes in prop::collection::vec(any::<u8>(), 0..120), kind in prop::sample::select(vec![1u8, 2, 3, 4, 11, 12, 128])) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let version = if v6 { Version::V6 } else { Version::V4 };
            if let Ok(Icmp::Error(quoted)) = Icmp::parse(version, &bytes) {
                let flow = quoted.flow();
                prop_assert!(flow.is_none_or(|flow| flow.destination == quoted.source));
            }
        }
    }
}
