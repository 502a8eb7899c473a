//! How tunnel packets are spread over the raw sockets of several workers: each of these sockets gets a copy of
//! every packet, so each has a filter that takes the flows of its worker only. A classic BPF program, which
//! needs no privilege of its own (SO_ATTACH_FILTER, socket(7)).
//!
//! A flow is the inner source address, and the ports where the inner packet is TCP or UDP, no fragment, and
//! without options or extension headers. What is too short for that is the first worker's, which counts it.

use std::io;

use socket2::{SockFilter, Socket};

use crate::packet::Version;

/// Where the inner packet begins in what the filter sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// After the IPv4 header at the start.
    AfterIpv4,
    /// At that byte.
    At(u32),
}

/// One of several that share the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) index: u32,
    /// How many there are; at least one.
    pub(super) of: u32,
}

/// Makes the socket take the flows of this share only.
///
/// # Errors
/// The system's error.
pub(super) fn take(socket: &Socket, start: Start, inner: Version, share: Share) -> io::Result<()> {
    socket.attach_filter(&filter(start, inner, share))
}

/// Instructions (linux/bpf_common.h): class, size or operation, mode or source.
const LOAD_BYTE_AT_X: u16 = 0x50; // BPF_LD | BPF_B | BPF_IND
const LOAD_HALF_AT_X: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
const LOAD_WORD_AT_X: u16 = 0x40; // BPF_LD | BPF_W | BPF_IND
const LOAD_LENGTH: u16 = 0x80; // BPF_LD | BPF_W | BPF_LEN
const LOAD_MEMORY: u16 = 0x60; // BPF_LD | BPF_MEM
const X_IS_HEADER: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
const X_IS: u16 = 0x01; // BPF_LDX | BPF_W | BPF_IMM
const STORE: u16 = 0x02; // BPF_ST
const STORE_X: u16 = 0x03; // BPF_STX
const X_IS_MEMORY: u16 = 0x61; // BPF_LDX | BPF_MEM
const SUBTRACT_X: u16 = 0x1c; // BPF_ALU | BPF_SUB | BPF_X
const XOR_X: u16 = 0xac; // BPF_ALU | BPF_XOR | BPF_X
const MULTIPLY: u16 = 0x24; // BPF_ALU | BPF_MUL | BPF_K
const SHIFT_RIGHT: u16 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const MODULO: u16 = 0x94; // BPF_ALU | BPF_MOD | BPF_K
const X_IS_A: u16 = 0x07; // BPF_MISC | BPF_TAX
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const WHOLE: u32 = u32::MAX;
const NOTHING: u32 = 0;

/// Knuth's multiplicative hash, of which the high half is used (2^32 divided by the golden ratio).
const GOLDEN: u32 = 0x9e37_79b1;

/// Memory: of the hash so far, of where the inner packet begins.
const HASH: u32 = 0;
const INNER: u32 = 1;

fn filter(start: Start, inner: Version, share: Share) -> Vec<SockFilter> {
    let verdict = |mine: bool| if mine { WHOLE } else { NOTHING };
    let step = |code, k| SockFilter::new(code, 0, 0, k);
    let shortest = match inner {
        Version::V4 => 24,
        Version::V6 => 44,
    };
    let mut program = vec![
        match start {
            Start::AfterIpv4 => step(X_IS_HEADER, 0),
            Start::At(byte) => step(X_IS, byte),
        },
        step(STORE_X, INNER),
        step(LOAD_LENGTH, 0),
        step(SUBTRACT_X, 0), // the IP header is within what the kernel delivers
        SockFilter::new(AT_LEAST, 1, 0, shortest),
        step(RETURN, verdict(share.index == 0)),
    ];
    match inner {
        Version::V4 => hash_v4(&mut program),
        Version::V6 => hash_v6(&mut program),
    }
    program.extend([
        step(LOAD_MEMORY, HASH),
        step(MULTIPLY, GOLDEN),
        step(SHIFT_RIGHT, 16),
        step(MODULO, share.of.max(1)),
        SockFilter::new(EQUAL, 0, 1, share.index),
        step(RETURN, WHOLE),
        step(RETURN, NOTHING),
    ]);
    program
}

/// A jump past the ports, taken where the comparison holds or where it does not.
const PAST_PORTS: u8 = 5;

fn hash_v4(program: &mut Vec<SockFilter>) {
    let step = |code, k| SockFilter::new(code, 0, 0, k);
    program.extend([
        step(LOAD_WORD_AT_X, 12),
        step(STORE, HASH),
        step(LOAD_BYTE_AT_X, 0),
        SockFilter::new(EQUAL, 0, PAST_PORTS + 5, 0x45),
        step(LOAD_HALF_AT_X, 6),
        SockFilter::new(ANY_BIT, PAST_PORTS + 3, 0, 0x3fff),
        step(LOAD_BYTE_AT_X, 9),
        SockFilter::new(EQUAL, 1, 0, 6),
        SockFilter::new(EQUAL, 0, PAST_PORTS, 17),
    ]);
    mix_word(program, 20);
}

fn hash_v6(program: &mut Vec<SockFilter>) {
    let step = |code, k| SockFilter::new(code, 0, 0, k);
    program.extend([step(LOAD_WORD_AT_X, 8), step(STORE, HASH)]);
    for offset in [12, 16, 20] {
        mix_word(program, offset);
        program.push(step(X_IS_MEMORY, INNER));
    }
    program.extend([
        step(LOAD_BYTE_AT_X, 6),
        SockFilter::new(EQUAL, 1, 0, 6),
        SockFilter::new(EQUAL, 0, PAST_PORTS, 17),
    ]);
    mix_word(program, 40);
}

/// Mixes the word at that byte of the inner packet into the hash; afterwards X is used up.
fn mix_word(program: &mut Vec<SockFilter>, offset: u32) {
    let step = |code, k| SockFilter::new(code, 0, 0, k);
    program.extend([
        step(LOAD_WORD_AT_X, offset),
        step(X_IS_A, 0),
        step(LOAD_MEMORY, HASH),
        step(XOR_X, 0),
        step(STORE, HASH),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, net::UdpSocket};

    const SHARES: u32 = 3;

    /// Sockets with one share each. What their filters see begins with the UDP header.
    fn sockets(inner: Version) -> Vec<UdpSocket> {
        let socket = |index| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = Socket::from(socket);
            take(&socket, Start::At(8), inner, Share { index, of: SHARES }).unwrap();
            socket.into()
        };
        (0..SHARES).map(socket).collect()
    }

    /// The one socket that takes the packet.
    fn taker(sockets: &[UdpSocket], packet: &[u8]) -> usize {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in sockets {
            sender
                .send_to(packet, socket.local_addr().unwrap())
                .unwrap();
        }
        let took = |socket: &UdpSocket| socket.recv(&mut [0; 200]).is_ok();
        let takers: Vec<_> = (0..sockets.len())
            .filter(|index| took(&sockets[*index]))
            .collect();
        assert_eq!(takers.len(), 1, "{takers:?} took {packet:02x?}");
        takers[0]
    }

    fn packet(version: Version, client: u8, protocol: u8, port: u16) -> Vec<u8> {
        let header = match version {
            Version::V4 => {
                let head = [0x45, 0, 0, 30, 0, 1, 0, 0, 63, protocol, 0, 0];
                [&head[..], &[192, 0, 2, client, 10, 0, 0, 100]].concat()
            }
            Version::V6 => {
                let head = [0x60, 0, 0, 0, 0, 10, protocol, 63];
                [&head[..], &[0xfd; 15], &[client], &[0xfc; 16]].concat()
            }
        };
        [
            &header[..],
            &port.to_be_bytes(),
            &[0, 53, 0, 10, 0, 0, 1, 2],
        ]
        .concat()
    }

    #[test]
    fn each_packet_has_one_taker_and_each_taker_packets() {
        for version in [Version::V4, Version::V6] {
            let sockets = sockets(version);
            for protocol in [6, 17] {
                let takers: BTreeSet<_> = (0..60)
                    .map(|port| taker(&sockets, &packet(version, 7, protocol, 40_000 + port)))
                    .collect();
                assert_eq!(takers.len(), 3, "{version:?}: ports spread");
            }
            let takers: BTreeSet<_> = (0..60)
                .map(|client| taker(&sockets, &packet(version, client, 1, 0)))
                .collect();
            assert_eq!(takers.len(), 3, "{version:?}: addresses spread");
        }
    }

    #[test]
    fn ports_count_only_where_there_are_some() {
        let sockets = sockets(Version::V4);
        let fragment = |port: u16| {
            let mut packet = packet(Version::V4, 7, 17, port);
            packet[6..8].copy_from_slice(&[0x20, 0]);
            packet
        };
        let options = |port: u16| {
            let mut packet = packet(Version::V4, 7, 17, port);
            packet[0] = 0x46;
            packet
        };
        let icmp = |port: u16| packet(Version::V4, 7, 1, port);
        let kinds: [&dyn Fn(u16) -> Vec<u8>; 3] = [&fragment, &options, &icmp];
        let takers: BTreeSet<_> = kinds
            .iter()
            .flat_map(|kind| (0..30).map(|port| taker(&sockets, &kind(40_000 + port))))
            .collect();
        assert_eq!(takers.len(), 1, "one client is one flow then");
    }

    #[test]
    fn what_is_too_short_is_the_first_ones() {
        for version in [Version::V4, Version::V6] {
            let sockets = sockets(version);
            for length in [0, 1, 19, 20, 23] {
                let packet = &packet(version, 7, 17, 40_000)[..length];
                assert_eq!(taker(&sockets, packet), 0, "{version:?}, {length} bytes");
            }
        }
    }
}
