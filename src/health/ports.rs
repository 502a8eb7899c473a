//! Source ports of probes: in a circle, so that a port is not used again before the last packet of its former
//! connection is long gone. All backends of a VIP have the same peer address; with the kernel's own choice an
//! old backend's late answer would meet a new probe within seconds.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::packet::Protocol;

/// Linux's own range of local ports.
const DEFAULT: RangeInclusive<u16> = 32_768..=60_999;

/// The next port by what the kernel tells connections apart by.
#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    next: HashMap<(IpAddr, SocketAddr, Protocol), u16>,
    seed: u64,
}

/// The range that the kernel gives to clients.
pub(super) fn range() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    text.ok().and_then(|text| parse(&text)).unwrap_or(DEFAULT)
}

impl Ports {
    /// Of the range that the kernel gives to clients. The circle begins somewhere, so that a process that follows
    /// another does not meet what that one left.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            range: range(),
            next: HashMap::new(),
            seed,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        u32::from(*self.range.end()) - u32::from(*self.range.start()) + 1
    }

    /// The next one for such a connection.
    pub(super) fn next(
        &mut self,
        source: IpAddr,
        destination: SocketAddr,
        protocol: Protocol,
    ) -> u16 {
        let (first, last) = (*self.range.start(), *self.range.end());
        let begin = u64::from(first) + self.seed % u64::from(self.len());
        let begin = u16::try_from(begin).unwrap_or(first);
        let next = self
            .next
            .entry((source, destination, protocol))
            .or_insert(begin);
        let port = *next;
        *next = if port >= last { first } else { port + 1 };
        port
    }
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace().map(str::parse);
    let (first, last) = (words.next()?.ok()?, words.next()?.ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_comes_once_in_a_round() {
        let mut ports = Ports {
            range: 100..=109,
            next: HashMap::new(),
            seed: 17,
        };
        let source = IpAddr::from([10, 0, 1, 2]);
        let mut next = |vip: u8| ports.next(source, ([10, 0, 0, vip], 80).into(), Protocol::Tcp);
        let round: Vec<_> = (0..10).map(|_| next(1)).collect();
        assert_eq!(round, [107, 108, 109, 100, 101, 102, 103, 104, 105, 106]);
        assert_eq!(
            (next(1), next(2)),
            (107, 107),
            "each VIP has its own circle"
        );
    }

    #[test]
    fn ranges() {
        assert_eq!(parse("32768\t60999\n"), Some(32_768..=60_999));
        for bad in ["", "1", "0 5", "9 5", "a b", "1 70000"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
