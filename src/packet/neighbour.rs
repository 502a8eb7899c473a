//! Who has an address on an Ethernet segment: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861),
//! as whole frames. Asks, announces, and reads who claims an address; keeps no table.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;

/// The link-layer address of an Ethernet device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

const BROADCAST: MacAddress = MacAddress([0xff; 6]);
const NO_MAC: MacAddress = MacAddress([0; 6]);
/// ff02::1, every node of the segment.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// ARP over Ethernet for IPv4: hardware and protocol type, lengths of their addresses (RFC 826).
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;

/// Bytes of an IPv6 header, which no message of neighbour discovery has extensions after.
const IPV6: usize = 40;
const ICMPV6: u8 = 58;
/// Types of ICMPv6 messages (RFC 4861 §4.3, §4.4).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The flag "override" of an advertisement, in its fifth byte.
const OVERRIDE: u8 = 0x20;
/// Options that hold a link-layer address (RFC 4861 §4.6.1).
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
/// Of every packet of neighbour discovery; one that a router forwarded has less (RFC 4861 §7.1).
const HOP_LIMIT: u8 = 255;

/// A frame that asks who has `target`. `source` is an address of the asking device and of the target's
/// family, to which also a proxy answers; without one it is the probe of RFC 5227 or RFC 4862.
#[must_use]
pub fn question(target: IpAddr, source: Option<IpAddr>, mac: MacAddress) -> Vec<u8> {
    match target {
        IpAddr::V4(target) => {
            let source = match source {
                Some(IpAddr::V4(source)) => source,
                Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
            };
            arp(ARP_REQUEST, (mac, source), (NO_MAC, target))
        }
        IpAddr::V6(target) => match source {
            Some(IpAddr::V6(source)) => solicitation(target, source, Some(mac), mac),
            // The unspecified address has no link-layer address (RFC 4861 §4.3).
            Some(IpAddr::V4(_)) | None => solicitation(target, Ipv6Addr::UNSPECIFIED, None, mac),
        },
    }
}

/// The frames that tell a segment that `address` is at `mac`: a gratuitous ARP request and reply, since
/// some hosts take only one of them (both targets are the sender, as RFC 5944 §4.6 and Linux want it), or an unsolicited advertisement that overrides what caches hold.
/// `source` is an IPv6 address of the device, which an advertisement has to come from.
#[must_use]
pub fn announcements(address: IpAddr, mac: MacAddress, source: Option<Ipv6Addr>) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => vec![
            arp(ARP_REQUEST, (mac, address), (NO_MAC, address)),
            arp(ARP_REPLY, (mac, address), (mac, address)),
        ],
        IpAddr::V6(address) => source
            .map(|source| advertisement(address, source, mac))
            .into_iter()
            .collect(),
    }
}

/// The address that the sender of a frame says to have, and where: of an ARP packet its sender, of a
/// neighbour advertisement its target. `None` for every other frame, and for one that is cut or invalid.
#[must_use]
pub fn claim(frame: &[u8]) -> Option<(IpAddr, MacAddress)> {
    let (header, packet) = frame.split_first_chunk::<ETHERNET>()?;
    match [header[12], header[13]] {
        ETHERTYPE_ARP => arp_claim(packet),
        ETHERTYPE_IPV6 => {
            let [_, _, _, _, _, _, mac @ .., _, _] = header;
            advertisement_claim(packet, MacAddress(*mac))
        }
        _ => None,
    }
}

fn arp(
    operation: u8,
    (source_mac, source): (MacAddress, Ipv4Addr),
    (target_mac, target): (MacAddress, Ipv4Addr),
) -> Vec<u8> {
    [
        &BROADCAST.0[..],
        &source_mac.0,
        &ETHERTYPE_ARP,
        &ARP_KIND,
        &[0, operation],
        &source_mac.0,
        &source.octets(),
        &target_mac.0,
        &target.octets(),
    ]
    .concat()
}

fn arp_claim(packet: &[u8]) -> Option<(IpAddr, MacAddress)> {
    let packet = packet.first_chunk::<28>()?;
    let valid = packet.starts_with(&ARP_KIND)
        && packet[6] == 0
        && [ARP_REQUEST, ARP_REPLY].contains(&packet[7]);
    let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, rest @ ..] = packet;
    let address = Ipv4Addr::new(rest[0], rest[1], rest[2], rest[3]);
    (valid && !address.is_unspecified())
        .then_some((address.into(), MacAddress([*a, *b, *c, *d, *e, *f])))
}

fn solicitation(
    target: Ipv6Addr,
    source: Ipv6Addr,
    option: Option<MacAddress>,
    mac: MacAddress,
) -> Vec<u8> {
    let option = option.map(|mac| (SOURCE_MAC, mac));
    let message = discovery([SOLICITATION, 0], 0, target, option);
    discovery_frame(source, solicited_node(target), mac, message)
}

fn advertisement(target: Ipv6Addr, source: Ipv6Addr, mac: MacAddress) -> Vec<u8> {
    let option = Some((TARGET_MAC, mac));
    let message = discovery([ADVERTISEMENT, 0], OVERRIDE, target, option);
    discovery_frame(source, ALL_NODES, mac, message)
}

/// ff02::1:ff00:0/104 and the last three bytes of the address (RFC 4291 §2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// A message of neighbour discovery, its checksum still 0.
fn discovery(
    kind: [u8; 2],
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, MacAddress)>,
) -> Vec<u8> {
    let mut message = [&kind[..], &[0, 0, flags, 0, 0, 0], &target.octets()].concat();
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]); // its length in units of 8 bytes
        message.extend(mac.0);
    }
    message
}

fn discovery_frame(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    mac: MacAddress,
    mut message: Vec<u8>,
) -> Vec<u8> {
    let checksum = icmpv6_checksum(source, destination, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    // Of a group: 33:33 and its last four bytes (RFC 2464 §7).
    let [.., a, b, c, d] = destination.octets();
    [
        &[0x33, 0x33, a, b, c, d][..],
        &mac.0,
        &ETHERTYPE_IPV6,
        &[0x60, 0, 0, 0],
        &length_field(&message).to_be_bytes(),
        &[ICMPV6, HOP_LIMIT],
        &source.octets(),
        &destination.octets(),
        &message,
    ]
    .concat()
}

fn advertisement_claim(packet: &[u8], sender: MacAddress) -> Option<(IpAddr, MacAddress)> {
    let (header, rest) = packet.split_first_chunk::<IPV6>()?;
    let length = u16::from_be_bytes([header[4], header[5]]);
    let message = rest.get(..usize::from(length))?; // a short frame is padded
    let fixed = message.first_chunk::<24>()?;
    let (source, destination) = (address_at(header, 8)?, address_at(header, 24)?);
    let valid = header[0] >> 4 == 6
        && header[6..8] == [ICMPV6, HOP_LIMIT]
        && fixed[..2] == [ADVERTISEMENT, 0]
        && icmpv6_checksum(source, destination, message) == 0;
    let target = address_at(fixed, 8).filter(|_| valid)?;
    Some((target.into(), target_mac(&message[24..]).unwrap_or(sender)))
}

fn address_at(bytes: &[u8], offset: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = *bytes.get(offset..)?.first_chunk()?;
    Some(octets.into())
}

/// The link-layer address among the options; a reply to a question to one host needs none.
fn target_mac(mut options: &[u8]) -> Option<MacAddress> {
    loop {
        let [kind, units] = *options.first_chunk()?;
        let option = options.get(..usize::from(units) * 8)?;
        if kind == TARGET_MAC {
            return option.get(2..)?.first_chunk().copied().map(MacAddress);
        }
        options = options.get(option.len().max(1)..)?;
    }
}

/// The checksum to be written, or 0 where the message has the right one (RFC 4443 §2.3).
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    Sum::default()
        .add_bytes(&source.octets())
        .add_bytes(&destination.octets())
        .add_word(length_field(message))
        .add_word(u16::from(ICMPV6))
        .add_bytes(message)
        .finish()
}

/// A length that came out of a length field, or is below 33.
fn length_field(message: &[u8]) -> u16 {
    u16::try_from(message.len()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 0xd]);

    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pairs = digits
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        pairs
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn questions_by_arp() {
        let header = "ffffffffffff 02000000000d 0806 0001 0800 06 04 0001 02000000000d";
        let from = question(ip("10.0.0.100"), Some(ip("10.0.0.2")), MAC);
        let expected = format!("{header} 0a000002 000000000000 0a000064");
        assert_eq!(from, bytes(&expected));
        let probe = question(ip("10.0.0.100"), None, MAC);
        let expected = format!("{header} 00000000 000000000000 0a000064");
        assert_eq!(probe, bytes(&expected));
    }

    #[test]
    fn announcements_by_arp() {
        let request = "ffffffffffff 02000000000d 0806 0001 0800 06 04 0001 \
                       02000000000d 0a000064 000000000000 0a000064";
        let reply = "ffffffffffff 02000000000d 0806 0001 0800 06 04 0002 \
                     02000000000d 0a000064 02000000000d 0a000064";
        let frames = announcements(ip("10.0.0.100"), MAC, None);
        assert_eq!(frames, [bytes(request), bytes(reply)]);
        for frame in &frames {
            assert_eq!(claim(frame), Some((ip("10.0.0.100"), MAC)));
        }
    }

    /// The checksums were computed by another program.
    #[test]
    fn questions_and_announcements_of_neighbour_discovery() {
        let target = ip("2001:db8::100");
        let source = "fe80::ff:fe00:d".parse().unwrap();
        let asked = question(target, Some(IpAddr::V6(source)), MAC);
        let expected = "3333ff000100 02000000000d 86dd 60000000 0020 3a ff \
            fe80000000000000 000000fffe00000d ff02000000000000 00000001ff000100 \
            8700 4a4b 00000000 20010db8000000000000000000000100 0101 02000000000d";
        assert_eq!(asked, bytes(expected));
        let told = announcements(target, MAC, Some(source));
        let expected = "333300000001 02000000000d 86dd 60000000 0020 3a ff \
            fe80000000000000 000000fffe00000d ff02000000000000 0000000000000001 \
            8800 284c 20000000 20010db8000000000000000000000100 0201 02000000000d";
        assert_eq!(told, [bytes(expected)]);
        assert_eq!(claim(&told[0]), Some((target, MAC)));
        assert_eq!(claim(&asked), None, "a question claims nothing");
        assert_eq!(announcements(target, MAC, None), [] as [Vec<u8>; 0]);
        let probe = question(target, None, MAC);
        assert_eq!(probe.len(), 14 + 40 + 24, "no option without an address");
        assert_eq!(probe[22..38], [0; 16]);
    }

    #[test]
    fn who_claims_an_address() {
        let reply = arp(
            ARP_REPLY,
            (MAC, [10, 0, 0, 100].into()),
            (NO_MAC, [10, 0, 0, 2].into()),
        );
        assert_eq!(claim(&reply), Some((ip("10.0.0.100"), MAC)));
        let probe = question(ip("10.0.0.100"), None, MAC);
        assert_eq!(claim(&probe), None, "a probe claims nothing");
        let with = |offset: usize, value: u8| {
            let mut frame = reply.clone();
            frame[offset] = value;
            claim(&frame)
        };
        assert_eq!(with(13, 0), None, "another protocol");
        assert_eq!(with(17, 6), None, "another address family");
        assert_eq!(with(21, 3), None, "reverse ARP");
        assert_eq!(claim(&reply[..41]), None);
    }

    #[test]
    fn advertisements_that_are_not() {
        let target = ip("2001:db8::100");
        let source = "fe80::1".parse().unwrap();
        let frame = announcements(target, MAC, Some(source)).remove(0);
        let with = |offset: usize, value: u8| {
            let mut frame = frame.clone();
            frame[offset] = value;
            claim(&frame)
        };
        assert_eq!(with(21, 254), None, "a router forwarded it");
        assert_eq!(with(54, 135), None, "a solicitation");
        assert_eq!(with(60, 1), None, "its checksum is wrong");
        assert_eq!(with(19, 33), None, "it is cut");
        let mut padded = frame.clone();
        padded.extend([0; 6]);
        assert_eq!(claim(&padded), Some((target, MAC)));
        // Without the option the sender's own address counts.
        let IpAddr::V6(address) = target else {
            unreachable!()
        };
        let message = discovery([ADVERTISEMENT, 0], 0, address, None);
        let bare = discovery_frame(source, ALL_NODES, MacAddress([2; 6]), message);
        assert_eq!(claim(&bare), Some((target, MacAddress([2; 6]))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut frames = vec![bytes.clone()];
            for kind in [ETHERTYPE_ARP, ETHERTYPE_IPV6] {
                let mut frame = bytes.clone();
                if let Some(field) = frame.get_mut(12..14) {
                    field.copy_from_slice(&kind);
                }
                frames.push(frame);
            }
            let claims = frames.iter().filter_map(|frame| claim(frame));
            prop_assert!(claims.count() <= frames.len());
            prop_assert!(target_mac(&bytes).is_none() || bytes.len() >= 8);
        }

        #[test]
        fn what_is_announced_is_read(octets: [u8; 16], v4: [u8; 4], mac: [u8; 6]) {
            let source = Some(Ipv6Addr::LOCALHOST);
            for address in [IpAddr::from(octets), IpAddr::from(v4)] {
                for frame in announcements(address, MacAddress(mac), source) {
                    let read = claim(&frame);
                    let expected = Some((address, MacAddress(mac)));
                    prop_assert!(read == expected || address.is_unspecified());
                }
            }
        }
    }
}
