//! What others want to know of a ring, found once when it is built: how many slots each backend holds, and a
//! fingerprint.
//!
//! The fingerprint is a contract between directors, of any build. Each address, as 16 octets (IPv4 mapped into
//! IPv6, RFC 4291 §2.5.5.2), is hashed by SipHash-1-3 with a key of zeros. Over these words, in the order of
//! slots, goes FNV-1a of 64 bits, a word at a time where the original takes an octet (RFC 9923 §2 has basis and
//! prime). Both halves of the result are combined by XOR. Secret it is not: it is for comparing, and who may see
//! it may see the addresses.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::RingMember;

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Slots by index, as far as there are holders.
    shares: Box<[u32]>,
    pub(super) fingerprint: u32,
}

impl Facts {
    /// Of slots that hold indices of these members.
    pub(super) fn of<I: Copy + Into<u16>>(slots: &[I], members: &[&RingMember]) -> Self {
        let indices = members.iter().map(|member| member.index);
        let length = indices.max().map_or(0, |last| usize::from(last) + 1);
        let mut words = vec![0; length];
        for member in members {
            words[usize::from(member.index)] = word(member.address);
        }
        let mut shares = vec![0; length].into_boxed_slice();
        let mut hash = BASIS;
        for &slot in slots {
            let index = usize::from(slot.into());
            shares[index] += 1;
            hash = (hash ^ words[index]).wrapping_mul(PRIME);
        }
        let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
        Self {
            shares,
            fingerprint: u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h]),
        }
    }

    pub(super) fn share(&self, index: u16) -> u32 {
        self.shares.get(usize::from(index)).copied().unwrap_or(0)
    }
}

fn word(address: IpAddr) -> u64 {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    SipHasher13::new().hash(&octets)
}
