//! From a captured frame to the IP packet in it.

use super::PcapError;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and the number that QinQ used before 802.1ad.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Address families in a loopback header: IPv4, and IPv6 of Linux, NetBSD, FreeBSD and macOS.
const FAMILIES_IP: [u32; 5] = [2, 10, 24, 28, 30];

/// What captured bytes begin with (the registry of link types, draft-ietf-opsawg-pcaplinktype).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// LINKTYPE_ETHERNET, 1.
    Ethernet,
    /// LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6, 101, 228 and 229: an IP packet.
    Raw,
    /// LINKTYPE_NULL and LINKTYPE_LOOP, 0 and 108: an address family in either byte order.
    Loopback,
    /// LINKTYPE_LINUX_SLL, 113.
    LinuxCooked,
    /// LINKTYPE_LINUX_SLL2, 276.
    LinuxCooked2,
    /// Any other, by its number.
    Other(u16),
}

/// A frame without an IP packet in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no IP packet in the frame")]
pub struct NotIp;

impl From<u16> for LinkType {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::Ethernet,
            101 | 228 | 229 => Self::Raw,
            0 | 108 => Self::Loopback,
            113 => Self::LinuxCooked,
            276 => Self::LinuxCooked2,
            other => Self::Other(other),
        }
    }
}

impl LinkType {
    pub(super) const fn require_supported(self, offset: u64) -> Result<(), PcapError> {
        if let Self::Other(link) = self {
            return Err(PcapError::Link { offset, link });
        }
        Ok(())
    }

    pub(super) fn network_packet(self, frame: &[u8]) -> Result<&[u8], NotIp> {
        match self {
            Self::Raw => Ok(frame),
            Self::Ethernet => after_ethertype(frame, 12, 14),
            Self::LinuxCooked => after_ethertype(frame, 14, 16),
            Self::LinuxCooked2 => after_ethertype(frame, 0, 20),
            Self::Loopback => after_family(frame),
            Self::Other(_) => Err(NotIp),
        }
    }
}

/// The packet at `end` of the link header, whose ethertype is at `at`.
fn after_ethertype(frame: &[u8], at: usize, end: usize) -> Result<&[u8], NotIp> {
    let ethertype = frame.get(at..).and_then(<[u8]>::first_chunk);
    let mut ethertype = u16::from_be_bytes(*ethertype.ok_or(NotIp)?);
    let mut rest = frame.get(end..).ok_or(NotIp)?;
    while ETHERTYPES_VLAN.contains(&ethertype) {
        let ([_, _, high, low], after) = rest.split_first_chunk().ok_or(NotIp)?;
        ethertype = u16::from_be_bytes([*high, *low]);
        rest = after;
    }
    match ethertype {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Ok(rest),
        _ => Err(NotIp),
    }
}

fn after_family(frame: &[u8]) -> Result<&[u8], NotIp> {
    let (family, packet) = frame.split_first_chunk().ok_or(NotIp)?;
    let orders = [u32::from_be_bytes(*family), u32::from_le_bytes(*family)];
    let is_ip = orders.iter().any(|family| FAMILIES_IP.contains(family));
    is_ip.then_some(packet).ok_or(NotIp)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: &[u8] = &[0x45, 1, 2];

    fn frame(parts: &[&[u8]]) -> Vec<u8> {
        [parts.concat(), IP.to_vec()].concat()
    }

    #[test]
    fn link_headers() {
        let mac: &[u8] = &[0xee; 12];
        let cases: [(&str, u16, Vec<u8>); 11] = [
            ("Ethernet", 1, frame(&[mac, &[8, 0]])),
            ("IPv6", 1, frame(&[mac, &[0x86, 0xdd]])),
            ("a tag", 1, frame(&[mac, &[0x81, 0, 0, 7, 8, 0]])),
            (
                "two tags",
                1,
                frame(&[mac, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 8, 0]]),
            ),
            ("raw", 101, frame(&[])),
            ("raw IPv4", 228, frame(&[])),
            ("raw IPv6", 229, frame(&[])),
            ("cooked", 113, frame(&[&[0; 14], &[8, 0]])),
            ("cooked, version 2", 276, frame(&[&[8, 0], &[0; 18]])),
            ("loopback", 0, frame(&[&[2, 0, 0, 0]])),
            ("loopback of OpenBSD", 108, frame(&[&[0, 0, 0, 24]])),
        ];
        for (what, link, bytes) in cases {
            let packet = LinkType::from(link).network_packet(&bytes);
            assert_eq!(packet, Ok(IP), "{what}");
        }
    }

    #[test]
    fn frames_without_ip() {
        let mac: &[u8] = &[0xee; 12];
        let cases: [(&str, u16, Vec<u8>); 6] = [
            ("ARP", 1, frame(&[mac, &[8, 6]])),
            ("a length (802.3)", 1, frame(&[mac, &[0, 38]])),
            ("ends in the addresses", 1, vec![0xee; 11]),
            ("ends in a tag", 1, [mac, &[0x81, 0, 0, 7, 8]].concat()),
            ("cooked, too short", 276, vec![8, 0, 0]),
            ("AppleTalk", 0, frame(&[&[16, 0, 0, 0]])),
        ];
        for (what, link, bytes) in cases {
            let packet = LinkType::from(link).network_packet(&bytes);
            assert_eq!(packet, Err(NotIp), "{what}");
        }
    }
}
