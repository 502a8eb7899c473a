//! Packets and outer headers written field by field. Uses nothing of tunlb's own encapsulation or
//! checksums: it is what those are compared with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip::SipHasher13;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// An IP header to come; from 192.0.2.1 or 2001:db8:c::1, with DF in IPv4.
#[derive(Clone)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) class: u8,
    pub(crate) identification: u16,
    /// Flags and offset, as in the header.
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) options: Vec<u8>,
}

pub(crate) fn to(destination: &str) -> Ip {
    let destination: IpAddr = destination.parse().unwrap();
    Ip {
        source: match destination {
            IpAddr::V4(_) => "192.0.2.1".parse().unwrap(),
            IpAddr::V6(_) => "2001:db8:c::1".parse().unwrap(),
        },
        destination,
        class: 0,
        identification: 0x4321,
        fragment: 0x4000,
        ttl: 57,
        options: Vec::new(),
    }
}

impl Ip {
    pub(crate) fn from(mut self, source: &str) -> Self {
        self.source = source.parse().unwrap();
        self
    }

    pub(crate) fn class(mut self, class: u8) -> Self {
        self.class = class;
        self
    }

    pub(crate) fn may_be_fragmented(mut self) -> Self {
        self.fragment = 0;
        self
    }

    pub(crate) fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// A fragment of IPv4, at an offset in bytes.
    pub(crate) fn piece(mut self, identification: u16, offset: u16, more: bool) -> Self {
        self.identification = identification;
        self.fragment = (u16::from(more) << 13) | (offset / 8);
        self
    }

    /// The packet; ICMP gets its checksum.
    pub(crate) fn carrying(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = self.header(protocol, payload.len());
        let start = packet.len();
        packet.extend(payload);
        let sum = match protocol {
            1 => checksum(payload),
            58 => checksum(&[&self.pseudo_header(58, payload.len()), payload].concat()),
            _ => return packet,
        };
        packet[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    pub(crate) fn tcp(&self, source_port: u16, port: u16, flags: u8) -> Vec<u8> {
        self.carrying(TCP, &tcp(source_port, port, flags))
    }

    pub(crate) fn syn(&self, source_port: u16, port: u16) -> Vec<u8> {
        self.tcp(source_port, port, SYN)
    }

    pub(crate) fn ack(&self, source_port: u16, port: u16) -> Vec<u8> {
        self.tcp(source_port, port, ACK)
    }

    pub(crate) fn udp(&self, source_port: u16, port: u16, data: &[u8]) -> Vec<u8> {
        self.carrying(UDP, &udp(source_port, port, data))
    }

    fn header(&self, protocol: u8, payload: usize) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = 5 + self.options.len() / 4;
                let total = two(words * 4 + payload);
                let mut header = vec![0x40 | u8::try_from(words).unwrap(), self.class];
                header.extend(total);
                header.extend(self.identification.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.ttl, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = checksum(&header).to_be_bytes();
                header[10..12].copy_from_slice(&sum);
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = vec![0x60 | (self.class >> 4), self.class << 4, 0, 0];
                header.extend(two(payload));
                header.extend([protocol, self.ttl]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            _ => panic!("{} to {}", self.source, self.destination),
        }
    }

    fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let mut header = [octets(self.source), octets(self.destination)].concat();
        header.extend([0, 0]);
        header.extend(two(length));
        header.extend([0, 0, 0, protocol]);
        header
    }
}

pub(crate) fn tcp(source_port: u16, port: u16, flags: u8) -> Vec<u8> {
    let mut segment = [source_port.to_be_bytes(), port.to_be_bytes()].concat();
    segment.extend([
        0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0x12, 0x34, 0, 0,
    ]);
    segment.extend(b"payload");
    segment
}

pub(crate) fn udp(source_port: u16, port: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = [source_port.to_be_bytes(), port.to_be_bytes()].concat();
    datagram.extend(two(8 + data.len()));
    datagram.extend([0xbe, 0xef]);
    datagram.extend(data);
    datagram
}

/// An ICMP message; `carrying` sets its checksum.
pub(crate) fn icmp(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(body);
    message
}

/// The fragment header of IPv6, at an offset in bytes.
pub(crate) fn fragment_header(next: u8, identification: u8, offset: u16, more: bool) -> Vec<u8> {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    vec![next, 0, high, low, 0, 0, 0, identification]
}

/// The tunnel to a backend: the outer header that the documentation promises.
#[derive(Clone, Copy)]
pub(crate) struct Tunnel {
    pub(crate) source: IpAddr,
    pub(crate) backend: IpAddr,
    /// Source and destination port of GUE.
    pub(crate) gue: Option<(u16, u16)>,
}

impl Tunnel {
    /// `identification` is for an outer header without DF.
    pub(crate) fn around(&self, inner: &[u8], identification: u16) -> Vec<u8> {
        let (class, dont_fragment, protocol) = match inner[0] >> 4 {
            4 => (inner[1], inner[6] & 0x40 != 0, 4),
            _ => ((inner[0] << 4) | (inner[1] >> 4), true, 41),
        };
        let outer = Ip {
            source: self.source,
            destination: self.backend,
            class,
            identification: if dont_fragment { 0 } else { identification },
            fragment: if dont_fragment { 0x4000 } else { 0 },
            ttl: 64,
            options: Vec::new(),
        };
        let Some((from, port)) = self.gue else {
            return outer.carrying(protocol, inner);
        };
        let mut datagram = udp(from, port, inner);
        datagram[6..8].fill(0);
        if self.backend.is_ipv6() {
            let sum =
                checksum(&[&outer.pseudo_header(UDP, datagram.len())[..], &datagram].concat());
            let sum = if sum == 0 { 0xffff } else { sum };
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        outer.carrying(UDP, &datagram)
    }
}

/// The documented hash of a 5-tuple, under the key of the sites.
pub(crate) fn flow_hash(ip: &Ip, source_port: u16, port: u16, protocol: u8) -> u64 {
    let mut bytes = [octets(ip.source), octets(ip.destination)].concat();
    bytes.extend(source_port.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.push(protocol);
    keyed_hash(&bytes)
}

/// The documented hash of a client's address.
pub(crate) fn client_hash(ip: &Ip) -> u64 {
    keyed_hash(&octets(ip.source))
}

fn keyed_hash(bytes: &[u8]) -> u64 {
    let key = std::array::from_fn(|index| u8::try_from(index).unwrap());
    SipHasher13::new_with_key(&key).hash(bytes)
}

/// RFC 1071, the slow way.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::octets(&v4).to_vec(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6).to_vec(),
    }
}

fn two(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}
