//! Outer sources with entropy: a prefix, and the flow hash in the bits after it.

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

    /// How many low bits of an address the prefix leaves free: 1 to 128.
    pub(super) fn free_bits(&self) -> u8 {
        self.0.max_prefix_len() - self.0.prefix_len()
    }
}
