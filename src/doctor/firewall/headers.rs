//! The headers of a judged packet as bytes, as far as they are known, for rules that look at bytes: `@nh,72,8` of nft,
//! the matches u32 and bpf of iptables.

use std::net::IpAddr;

use super::evaluate::Truth;
use super::names;
use super::{FilterPath, FilteredPacket};

/// A condition on bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// Of the match u32: where a number is found, and the ranges that it is in.
    Number(Vec<Turn>, Vec<(u32, u32)>),
    /// A program of BPF's first form.
    Program(Vec<Instruction>),
}

/// A turn on the way to a number: an operation with an operand. The first one is where to begin.
pub(super) type Turn = (char, u32);

/// Code, jumps for yes and no, operand (`struct sock_filter`, linux/filter.h).
pub(super) type Instruction = (u16, u8, u8, u32);

/// `6&0xFF=4 && 0>>22&0x3C@12=1,2:3`, as iptables-extensions(8) has it.
pub(super) fn numbers(text: &str) -> Option<Vec<Test>> {
    text.split("&&").map(|test| number(test.trim())).collect()
}

fn number(text: &str) -> Option<Test> {
    let (place, ranges) = text.split_once('=')?;
    let mut turns = Vec::new();
    let mut rest = place;
    let mut operation = '@';
    loop {
        let end = rest.find(['&', '<', '>', '@']).unwrap_or(rest.len());
        turns.push((operation, integer(&rest[..end])?));
        let Some(next) = rest[end..].chars().next() else {
            break;
        };
        operation = next;
        rest = rest[end..].trim_start_matches(next);
    }
    let range = |range: &str| {
        let (from, to) = range.split_once(':').unwrap_or((range, range));
        Some((integer(from)?, integer(to)?))
    };
    let ranges: Option<Vec<_>> = ranges.split(',').map(range).collect();
    Some(Test::Number(turns, ranges?))
}

fn integer(text: &str) -> Option<u32> {
    u32::try_from(names::integer(&text.trim().to_ascii_lowercase())?).ok()
}

/// `4,48 0 0 9,21 0 1 4,6 0 0 65535,6 0 0 0`: how many instructions, and each.
pub(super) fn program(text: &str) -> Option<Test> {
    let instruction = |text: &str| {
        let mut words = text.split_whitespace();
        let code = words.next()?.parse().ok()?;
        let (yes, no) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((code, yes, no, words.next()?.parse().ok()?))
    };
    let list = text.split(',').skip(1).filter(|text| !text.is_empty());
    Some(Test::Program(list.map(instruction).collect::<Option<_>>()?))
}

/// A number of which the bits in the second part are known.
type Partly = (u32, u32);

/// A packet's headers; bits of `known` are those that are known of `bytes`.
pub(super) struct Bytes {
    bytes: Vec<u8>,
    known: Vec<u8>,
    /// Where the transport header begins.
    transport: usize,
}

impl Bytes {
    pub(super) fn of(packet: &FilteredPacket) -> Self {
        let mut headers = Self {
            bytes: Vec::new(),
            known: Vec::new(),
            transport: 0,
        };
        headers.network(packet);
        headers.transport = headers.bytes.len();
        headers.transport_header(packet);
        headers.add_unknown(usize::from(packet.length).saturating_sub(headers.bytes.len()));
        headers
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.known.resize(self.bytes.len(), 0xff);
    }

    fn add_unknown(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
        self.known.resize(self.bytes.len(), 0);
    }

    fn network(&mut self, packet: &FilteredPacket) {
        let length = packet.length;
        match (packet.source, packet.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.add(&[0x45, 0]);
                self.add(&length.to_be_bytes());
                self.add_unknown(2);
                self.add(&[0, 0]);
                self.known[6] = 0xbf; // Don't Fragment may be set
                self.add_unknown(1);
                self.add(&[packet.protocol]);
                self.add_unknown(2);
                self.add(&source.octets());
                self.add(&destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.add(&[0x60]);
                self.add_unknown(3);
                self.add(&length.saturating_sub(40).to_be_bytes());
                self.add(&[packet.protocol]);
                self.add_unknown(1);
                self.add(&source.octets());
                self.add(&destination.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
    }

    fn transport_header(&mut self, packet: &FilteredPacket) {
        if !matches!(packet.protocol, 6 | 17) {
            return;
        }
        let Some((source, destination)) = packet.ports else {
            return;
        };
        let comes = packet.path != FilterPath::FromThisHost;
        let client = if comes { 0..2 } else { 2..4 };
        self.add(&source.to_be_bytes());
        self.add(&destination.to_be_bytes());
        // The client's port is any.
        for at in client {
            self.known[self.transport + at] = 0;
        }
        if packet.protocol == 6 {
            self.add_unknown(9);
            self.add(&[packet.tcp_flags.unwrap_or_default()]);
            if packet.tcp_flags.is_none() {
                self.known[self.transport + 13] = 0;
            }
            self.add_unknown(4);
            self.add(&[0, 0]);
        }
    }

    /// Bits from one of a header on; `None` beyond the packet's end.
    pub(super) fn bits(&self, of_transport: bool, from: u32, count: u32) -> Option<(u128, u128)> {
        let start = if of_transport { self.transport } else { 0 };
        let (mut value, mut known) = (0, 0);
        for at in from..from.checked_add(count.min(128))? {
            let byte = start + usize::try_from(at / 8).ok()?;
            let bit = 7 - at % 8;
            value = value << 1 | u128::from(self.bytes.get(byte)? >> bit & 1);
            known = known << 1 | u128::from(self.known.get(byte)? >> bit & 1);
        }
        Some((value & known, known | !0 << count.min(127)))
    }

    /// So many bytes at a place from the network header on.
    fn word(&self, at: u32, bytes: u32) -> Option<Partly> {
        let (value, known) = self.bits(false, at.checked_mul(8)?, bytes * 8)?;
        let low = |number: u128| u32::try_from(number & u128::from(u32::MAX)).unwrap_or_default();
        Some((
            low(value),
            low(known) | u32::MAX.checked_shl(bytes * 8).unwrap_or(0),
        ))
    }

    pub(super) fn meet(&self, test: &Test) -> Truth {
        match test {
            Test::Number(turns, ranges) => self.number(turns, ranges),
            Test::Program(program) => self.run(program).unwrap_or(Truth::Perhaps),
        }
    }

    /// `u32_match_it`, linux/net/netfilter/xt_u32.c.
    fn number(&self, turns: &[Turn], ranges: &[(u32, u32)]) -> Truth {
        let (mut base, mut number) = (0_u32, (0, u32::MAX));
        for (at, &(operation, operand)) in turns.iter().enumerate() {
            number = match operation {
                '&' => (number.0 & operand, number.1 | !operand),
                '<' => (shifted(number.0, operand), !shifted(!number.1, operand)),
                '>' => (number.0 >> operand.min(31), !(!number.1 >> operand.min(31))),
                _ => {
                    if at > 0 {
                        if number.1 != u32::MAX {
                            return Truth::Perhaps;
                        }
                        base = base.saturating_add(number.0);
                    }
                    match self.word(base.saturating_add(operand), 4) {
                        Some(word) => word,
                        None => return Truth::No,
                    }
                }
            };
        }
        let answers = ranges.iter().map(|&(from, to)| within(number, from, to));
        answers.max().unwrap_or(Truth::No)
    }

    /// `None` where a jump hangs on what is not known.
    fn run(&self, program: &[Instruction]) -> Option<Truth> {
        let (mut a, mut x): (Partly, Partly) = ((0, u32::MAX), (0, u32::MAX));
        let mut at = 0;
        loop {
            let &(code, yes, no, k) = program.get(at)?;
            at += 1;
            let operand = if code & 0x08 == 0 { (k, u32::MAX) } else { x };
            match code & 7 {
                0 => match self.loaded(code, k, x) {
                    Some(loaded) => a = loaded,
                    None => return Some(Truth::No),
                },
                1 if code == 0xb1 => {
                    let (length, known) = self.word(k, 1)?;
                    x = ((length & 15) << 2, !((!known & 15) << 2));
                }
                1 if code & 0xe0 == 0 => x = (k, u32::MAX),
                4 => a = arithmetic(code, a, operand)?,
                5 if code & 0xf0 == 0 => at += usize::try_from(k).ok()?,
                5 => at += usize::from(if jump(code, a, operand)? { yes } else { no }),
                6 => {
                    let result = if code & 0x18 == 0x10 {
                        a
                    } else {
                        (k, u32::MAX)
                    };
                    return Some(within(result, 1, u32::MAX));
                }
                7 if code & 0x80 == 0 => x = a,
                7 => a = x,
                _ => return None,
            }
        }
    }

    /// What an instruction loads; `None` beyond the packet's end.
    fn loaded(&self, code: u16, k: u32, x: Partly) -> Option<Partly> {
        let bytes = match code & 0x18 {
            0 => 4,
            0x08 => 2,
            _ => 1,
        };
        let unknown = Some((0, 0));
        match code & 0xe0 {
            0 => Some((k, u32::MAX)),
            0x20 if k < 1 << 31 => self.word(k, bytes),
            0x40 if x.1 == u32::MAX => self.word(x.0.checked_add(k)?, bytes),
            0x80 => Some((u32::try_from(self.bytes.len()).ok()?, u32::MAX)),
            _ => unknown,
        }
    }
}

fn shifted(number: u32, by: u32) -> u32 {
    number.checked_shl(by).unwrap_or_default()
}

fn within((value, known): Partly, from: u32, to: u32) -> Truth {
    let (least, most) = (value & known, value | !known);
    if most < from || least > to || (from == to && (value ^ from) & known != 0) {
        Truth::No
    } else if least >= from && most <= to {
        Truth::Yes
    } else {
        Truth::Perhaps
    }
}

/// Of the operations those that filters for addresses, protocols and ports have.
fn arithmetic(code: u16, a: Partly, operand: Partly) -> Option<Partly> {
    let (number, all) = operand;
    if all != u32::MAX {
        return Some((0, 0));
    }
    Some(match code & 0xf0 {
        0x50 => (a.0 & number, a.1 | !number),
        0x40 => (a.0 | number, a.1 | number),
        0x60 => (shifted(a.0, number), !shifted(!a.1, number)),
        0x70 => (a.0 >> number.min(31), !(!a.1 >> number.min(31))),
        0x00 if a.1 == u32::MAX => (a.0.wrapping_add(number), u32::MAX),
        0x10 if a.1 == u32::MAX => (a.0.wrapping_sub(number), u32::MAX),
        _ => (0, 0),
    })
}

fn jump(code: u16, a: Partly, (number, all): Partly) -> Option<bool> {
    if all != u32::MAX {
        return None;
    }
    let answer = match code & 0xf0 {
        0x10 => within(a, number, number),
        0x20 => number
            .checked_add(1)
            .map_or(Truth::No, |from| within(a, from, u32::MAX)),
        0x30 => within(a, number, u32::MAX),
        0x40 if a.0 & a.1 & number != 0 => Truth::Yes,
        0x40 if a.1 & number == number => Truth::No,
        _ => Truth::Perhaps,
    };
    match answer {
        Truth::Yes => Some(true),
        Truth::No => Some(false),
        Truth::Perhaps => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn() -> Bytes {
        let (client, vip) = ([10, 77, 1, 2], [10, 77, 0, 100]);
        Bytes::of(&FilteredPacket {
            ports: Some((49_152, 80)),
            tcp_flags: Some(2),
            ..FilteredPacket::new(FilterPath::ToThisHost, client.into(), vip.into(), 6)
        })
    }

    #[test]
    fn numbers_at_places() {
        for (text, expected) in [
            ("6&0xFF=4", Truth::No),
            ("6&0xFF=6", Truth::Yes),
            ("0x6&0xff=0x0:0x7", Truth::Yes),
            ("12=0x0a4d0102", Truth::Yes),
            ("12=0x0a4d0102 && 6&0xff=0x11", Truth::No),
            ("4&0x1FFF=0", Truth::Yes),
            ("0>>22&0x3C@0&0xFFFF=80,443", Truth::Yes),
            ("0>>22&0x3C@0>>16=1:1023", Truth::Perhaps),
            ("8>>24=0:3", Truth::Perhaps),
            ("200=0", Truth::No),
        ] {
            let tests = numbers(text).unwrap();
            let answer = tests.iter().map(|test| syn().meet(test)).min();
            assert_eq!(answer, Some(expected), "{text}");
        }
        assert_eq!(numbers("no number"), None);
    }

    #[test]
    fn programs() {
        for (text, expected) in [
            ("4,48 0 0 9,21 0 1 4,6 0 0 65535,6 0 0 0", Truth::No),
            ("4,48 0 0 9,21 0 1 6,6 0 0 65535,6 0 0 0", Truth::Yes),
            // tcp dst port 80, as tcpdump -ddd compiles it for raw IP
            (
                "10,48 0 0 0,84 0 0 240,21 0 6 64,48 0 0 9,21 0 4 6,40 0 0 6,69 2 0 8191,177 0 0 0,72 0 0 2,21 0 1 80,6 0 0 1,6 0 0 0",
                Truth::Yes,
            ),
            ("2,48 0 0 8,22 0 0 0", Truth::Perhaps),
            ("3,48 0 0 8,21 0 0 64,6 0 0 1", Truth::Perhaps),
        ] {
            assert_eq!(syn().meet(&program(text).unwrap()), expected, "{text}");
        }
        assert_eq!(program("1,nonsense"), None);
    }
}
