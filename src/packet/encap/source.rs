//! Outer sources with entropy: a prefix, and the flow hash in the bits after it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A prefix with at least one free bit after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntropyPrefix(IpNet);

/// A prefix without free bits: one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a prefix of one address has no room for entropy")]
pub struct EntropyPrefixError;

impl EntropyPrefix {
    /// Takes the network of `net`; bits after the prefix are ignored.
    ///
    /// # Errors
    /// [`EntropyPrefixError`] for /32 (IPv4) and /128 (IPv6).
    pub fn new(net: IpNet) -> Result<Self, EntropyPrefixError> {
        if net.prefix_len() == net.max_prefix_len() {
            return Err(EntropyPrefixError);
        }
        Ok(Self(net.trunc()))
    }

    /// The network.
    #[must_use]
    pub const fn net(&self) -> IpNet {
        self.0
    }

    /// The prefix, then as many of the hash's low bits as there is room for.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "only the low bits are wanted"
    )]
    pub(super) const fn address(&self, flow_hash: u64) -> IpAddr {
        match self.0 {
            IpNet::V4(net) => {
                let free = u32::MAX >> net.prefix_len();
                let bits = net.addr().to_bits() & !free | flow_hash as u32 & free;
                IpAddr::V4(Ipv4Addr::from_bits(bits))
            }
            IpNet::V6(net) => {
                let free = u128::MAX >> net.prefix_len();
                let bits = net.addr().to_bits() & !free | flow_hash as u128 & free;
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        }
    }
}
