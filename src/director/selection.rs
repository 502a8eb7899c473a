//! The selection hash: a packet's fields and the shared key become a ring slot's hash.
//!
//! Stable across machines, builds and data paths, so that directors that share a VIP and a key
//! agree on every flow; keyed, so that an outsider cannot aim flows at one backend. SipHash-1-3
//! (Aumasson, Bernstein 2012; 7.4 ns for a 5-tuple here) over these bytes, all big-endian:
//!
//! | fields | bytes |
//! | --- | --- |
//! | 5-tuple | source, destination, source port, destination port, protocol number |
//! | source-address | source |
//! | destination-port | destination port |

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::spec::{HashFields, HashKey};
use crate::packet::FlowKey;

/// Two IPv6 addresses, two ports, a protocol.
const LONGEST: usize = 16 + 16 + 2 + 2 + 1;

/// The keyed hash that all directors of a VIP share.
#[derive(Debug, Clone, Copy)]
pub struct SelectionHash {
    hasher: SipHasher13,
    key: HashKey,
}

impl SelectionHash {
    /// With the directors' shared key.
    #[must_use]
    pub fn new(key: &HashKey) -> Self {
        Self {
            hasher: SipHasher13::new_with_key(&key.0),
            key: *key,
        }
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &HashKey {
        &self.key
    }

    /// The hash of the chosen fields of a flow.
    #[must_use]
    pub fn hash(&self, key: &FlowKey, fields: HashFields) -> u64 {
        let mut input = Input::default();
        match fields {
            HashFields::FiveTuple => {
                input.address(key.source);
                input.address(key.destination);
                input.bytes(&key.source_port.to_be_bytes());
                input.bytes(&key.destination_port.to_be_bytes());
                input.bytes(&[key.protocol.number()]);
            }
            HashFields::SourceAddress => return self.hash_client(key.source),
            HashFields::DestinationPort => input.bytes(&key.destination_port.to_be_bytes()),
        }
        self.hasher.hash(&input.buffer[..input.length])
    }

    /// The hash of a client's address, as [`HashFields::SourceAddress`] has it.
    #[must_use]
    pub fn hash_client(&self, client: IpAddr) -> u64 {
        let mut input = Input::default();
        input.address(client);
        self.hasher.hash(&input.buffer[..input.length])
    }
}

/// The bytes to hash, gathered on the stack.
struct Input {
    buffer: [u8; LONGEST],
    length: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            buffer: [0; LONGEST],
            length: 0,
        }
    }
}

impl Input {
    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.buffer[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Protocol;

    fn key(source: &str, port: u16) -> FlowKey {
        FlowKey {
            source: source.parse().unwrap(),
            destination: "203.0.113.10".parse().unwrap(),
            source_port: port,
            destination_port: 443,
            protocol: Protocol::Tcp,
        }
    }

    fn selection() -> SelectionHash {
        SelectionHash::new(&"000102030405060708090a0b0c0d0e0f".parse().unwrap())
    }

    /// Two directors of different builds must agree: these values may never change. They come from
    /// an independent SipHash-1-3 in Python.
    #[test]
    fn pinned_values() {
        let flow = key("192.0.2.1", 40_000);
        let hash = |fields| selection().hash(&flow, fields);
        assert_eq!(hash(HashFields::FiveTuple), 13_363_922_128_480_283_759);
        assert_eq!(hash(HashFields::SourceAddress), 7_131_215_260_766_976_713);
        assert_eq!(hash(HashFields::DestinationPort), 7_565_455_741_858_994_367);
    }

    /// The documented byte layout, spelled out.
    #[test]
    fn layout() {
        let bytes = [192, 0, 2, 1, 203, 0, 113, 10, 0x9c, 0x40, 0x01, 0xbb, 6];
        let expected =
            SipHasher13::new_with_key(&std::array::from_fn(|i| u8::try_from(i).unwrap()))
                .hash(&bytes);
        assert_eq!(
            selection().hash(&key("192.0.2.1", 40_000), HashFields::FiveTuple),
            expected
        );
    }

    #[test]
    fn fields() {
        let (a, b) = (key("192.0.2.1", 1), key("192.0.2.1", 2));
        let hash = |flow: &FlowKey, fields| selection().hash(flow, fields);
        assert_ne!(
            hash(&a, HashFields::FiveTuple),
            hash(&b, HashFields::FiveTuple)
        );
        assert_eq!(
            hash(&a, HashFields::SourceAddress),
            hash(&b, HashFields::SourceAddress)
        );
        let other = key("192.0.2.2", 9);
        assert_ne!(
            hash(&a, HashFields::SourceAddress),
            hash(&other, HashFields::SourceAddress)
        );
        assert_eq!(
            hash(&a, HashFields::DestinationPort),
            hash(&other, HashFields::DestinationPort)
        );
    }

    #[test]
    fn key_matters() {
        let other = SelectionHash::new(&HashKey([7; 16]));
        let flow = key("192.0.2.1", 1);
        assert_ne!(
            selection().hash(&flow, HashFields::FiveTuple),
            other.hash(&flow, HashFields::FiveTuple)
        );
    }
}
