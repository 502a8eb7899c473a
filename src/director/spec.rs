//! What an operator asks for: VIPs and their backends, as plain validated values.
//!
//! [`config`](crate::config) produces these from a file or from flags; [`Snapshot`](super::Snapshot)
//! turns them into what the packet path reads. Nothing here is used per packet.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use crate::packet::{EncapKind, Protocol};
use crate::probe::Probing;

/// One virtual IP service: what clients address, and who may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipSpec {
    /// The operator's name for it, unique in the configuration; used in every output.
    pub name: String,
    /// The virtual IP address.
    pub address: IpAddr,
    /// The destination port that belongs to this VIP.
    pub port: PortMatch,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Which fields of a packet choose the ring slot.
    pub hash: HashFields,
    /// What happens to ICMP echo requests for the address.
    pub echo: Echo,
    /// Whether the MSS of SYNs is lowered.
    pub mss: Mss,
    /// What happens while no backend can take flows.
    pub all_down: AllDown,
    /// The share of the backends' weights, in percent, below which all count as healthy: so much failing at once
    /// is rather the probes' fault, and what is left could not bear the load.
    pub min_healthy: u8,
    /// How its backends are measured; `None`: not at all.
    pub probing: Option<Probing>,
    /// How many flows a second may enter the flow table, for all workers together; packets of
    /// further ones go by the ring alone. `None`: no limit.
    pub new_flows_per_second: Option<NonZeroU32>,
    /// How packets for its backends are encapsulated.
    pub encap: EncapKind,
    /// The backends, in the order of the configuration (the ring does not depend on it).
    pub backends: Vec<BackendSpec>,
}

/// One backend of a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSpec {
    /// Where the tunnel ends; also the backend's identity in the ring.
    pub address: IpAddr,
    /// Share of new flows relative to the VIP's other backends; 0 takes none.
    pub weight: u16,
    /// What the operator wants of it.
    pub state: BackendState,
}

/// A destination port, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortMatch {
    /// Every port of the protocol.
    Any,
    /// Exactly this port.
    Exact(NonZeroU16),
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Exact(port) => port.fmt(f),
        }
    }
}

/// Which fields of a packet choose its slot in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HashFields {
    /// Source and destination address and port, and the protocol.
    #[default]
    FiveTuple,
    /// The client's address alone: a client keeps its backend (affinity).
    SourceAddress,
    /// The destination port alone: for VIPs with `port = "any"`.
    DestinationPort,
}

impl fmt::Display for HashFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FiveTuple => "5-tuple",
            Self::SourceAddress => "source-address",
            Self::DestinationPort => "destination-port",
        })
    }
}

/// What an operator wants of a backend; health is measured apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BackendState {
    /// Takes new flows.
    #[default]
    Active,
    /// Keeps the flows it has, takes no new ones.
    Draining,
    /// Takes nothing; its flows move at once.
    Disabled,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        })
    }
}

/// What happens to an ICMP echo request for a VIP's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Echo {
    /// The director answers.
    #[default]
    Reply,
    /// It goes to a backend, always the same one for a client.
    Forward,
    /// Dropped, counted as `unsupported_protocol`.
    Drop,
}

impl fmt::Display for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reply => "reply",
            Self::Forward => "forward",
            Self::Drop => "drop",
        })
    }
}

/// Whether the MSS of clients' SYNs is lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mss {
    /// SYNs stay as they are.
    #[default]
    Keep,
    /// Lowered to what fits the path to the backend.
    Clamp,
}

impl fmt::Display for Mss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Clamp => "clamp",
        })
    }
}

/// What happens to a VIP's packets while no backend is healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AllDown {
    /// Treat all backends as healthy: the probe may be what is broken.
    #[default]
    Forward,
    /// Drop, counted as `no_backend`.
    Drop,
}

impl fmt::Display for AllDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Drop => "drop",
        })
    }
}

/// How many flows are remembered, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLimits {
    /// Bound of the flow table in flows, for all workers together.
    pub bound: NonZeroUsize,
    /// How long a flow is remembered without a packet.
    pub timeouts: FlowTimeouts,
}

impl FlowLimits {
    /// The limits of one of so many workers, which share the bound.
    #[must_use]
    pub(super) fn share(&self, workers: u16) -> Self {
        let bound = self.bound.get() / usize::from(workers.max(1));
        Self {
            bound: NonZeroUsize::new(bound).unwrap_or(NonZeroUsize::MIN),
            ..*self
        }
    }
}

/// How long a flow is remembered without a packet, by protocol and TCP state as the client's side
/// shows it. From [`MIN`](Self::MIN) to [`MAX`](Self::MAX).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// TCP of which one packet was seen, or only SYNs.
    pub half_open: Duration,
    /// TCP after more than that.
    pub established: Duration,
    /// TCP after a FIN.
    pub closing: Duration,
    /// TCP after a RST.
    pub reset: Duration,
    /// UDP.
    pub udp: Duration,
}

impl FlowTimeouts {
    /// Less would forget flows between two of their packets.
    pub const MIN: Duration = Duration::from_secs(1);
    /// A week: longer than any keep-alive interval in use.
    pub const MAX: Duration = Duration::from_secs(7 * 24 * 3600);
}

impl Default for FlowTimeouts {
    /// Established is below the 2 h 4 min that RFC 5382 §5 asks of NATs: a forgotten flow falls
    /// back to the ring, where it finds the same backend unless the set changed. Half-open is what
    /// five SYNs of Linux take (1 + 2 + 4 + 8 + 16 s).
    fn default() -> Self {
        Self {
            half_open: Duration::from_secs(30),
            established: Duration::from_secs(15 * 60),
            closing: Duration::from_secs(60),
            reset: Duration::from_secs(10),
            udp: Duration::from_secs(60),
        }
    }
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            bound: const { NonZeroUsize::new(1_000_000).expect("not 0") },
            timeouts: FlowTimeouts::default(),
        }
    }
}

/// The secret of the selection hash: 128 bits, the same on all directors of a VIP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl HashKey {
    /// The key of a configuration that names none. Public, so an outsider can aim flows at one
    /// backend; good for labs, and the same on every director.
    pub const DEFAULT: Self = Self(*b"tunlb default k.");

    /// Whether it is one that anyone would try: the default, few bytes repeated, or bytes or digits that
    /// count in equal steps, as in examples (`0011…ff`). Of random keys less than one in 10¹⁹ is.
    #[must_use]
    pub fn is_guessable(&self) -> bool {
        let bytes = self.0;
        let digits: [u8; 32] = std::array::from_fn(|at| match at % 2 {
            0 => bytes[at / 2] >> 4,
            _ => bytes[at / 2] & 0xf,
        });
        let repeats = |period| bytes.iter().zip(&bytes[period..]).all(|(a, b)| a == b);
        *self == Self::DEFAULT
            || distinct(bytes) <= 4
            || (5..=8).any(repeats)
            || distinct(steps(&bytes, 256)) <= 2
            || distinct(steps(&digits, 16)) <= 3
    }
}

fn distinct(values: impl IntoIterator<Item = impl Ord>) -> usize {
    BTreeSet::from_iter(values).len()
}

/// From each value to the next, modulo `modulus`.
fn steps(values: &[u8], modulus: u16) -> impl Iterator<Item = u16> {
    let next = values.iter().skip(1);
    let pairs = values.iter().zip(next);
    pairs.map(move |(&from, &to)| (u16::from(to) + modulus - u16::from(from)) % modulus)
}

/// The 32 digits of the file. Only where the operator asks for the secret.
impl fmt::LowerHex for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits (128 bits)")]
pub struct HashKeyError;

impl FromStr for HashKey {
    type Err = HashKeyError;

    fn from_str(text: &str) -> Result<Self, HashKeyError> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(HashKeyError);
        }
        u128::from_str_radix(text, 16)
            .map(|key| Self(key.to_be_bytes()))
            .map_err(|_| HashKeyError)
    }
}

/// The number of slots of a ring: a prime from 251 to 16,777,213.
///
/// Prime so that every backend's permutation visits every slot (NSDI 2016 §3.4); the bounds are
/// the largest primes below 2⁸ and 2²⁴.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RingSize(u32);

/// A number that cannot be a ring size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingSizeError {
    /// Outside [`RingSize::MIN`]..=[`RingSize::MAX`].
    #[error("outside 251 to 16777213")]
    OutOfRange,
    /// Divisible; carries the nearest prime within the bounds.
    #[error("not a prime; the nearest is {nearest}")]
    NotPrime {
        /// The nearest prime within the bounds.
        nearest: u32,
    },
}

impl RingSize {
    /// The smallest ring: the largest prime below 2⁸.
    pub const MIN: u32 = 251;
    /// The largest ring: the largest prime below 2²⁴.
    pub const MAX: u32 = 16_777_213;
    /// 65537: under 1 % imbalance for up to 655 equal backends (NSDI 2016 §5.3).
    pub const DEFAULT: Self = Self(65_537);

    /// Checks bounds and primality.
    ///
    /// # Errors
    /// [`RingSizeError`] when out of bounds or not prime.
    pub fn new(size: u64) -> Result<Self, RingSizeError> {
        let size = u32::try_from(size).map_err(|_| RingSizeError::OutOfRange)?;
        if !(Self::MIN..=Self::MAX).contains(&size) {
            return Err(RingSizeError::OutOfRange);
        }
        if !is_prime(size) {
            let nearest = nearest_prime(size);
            return Err(RingSizeError::NotPrime { nearest });
        }
        Ok(Self(size))
    }

    /// The number of slots.
    #[must_use]
    pub const fn slots(self) -> u32 {
        self.0
    }
}

impl Default for RingSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|divisor| !n.is_multiple_of(divisor))
}

/// The prime closest to `size` within the bounds, the smaller one when two are as close.
fn nearest_prime(size: u32) -> u32 {
    (0..)
        .flat_map(|distance| [size - distance, size + distance])
        .find(|&n| n <= RingSize::MIN || n >= RingSize::MAX || is_prime(n))
        .map_or(RingSize::MIN, |n| n.clamp(RingSize::MIN, RingSize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ring_sizes() {
        assert_eq!(RingSize::new(65_537), Ok(RingSize::DEFAULT));
        assert!(RingSize::new(251).is_ok());
        assert!(RingSize::new(16_777_213).is_ok());
        assert_eq!(RingSize::new(250), Err(RingSizeError::OutOfRange));
        assert_eq!(RingSize::new(16_777_214), Err(RingSizeError::OutOfRange));
        assert_eq!(RingSize::new(u64::MAX), Err(RingSizeError::OutOfRange));
        for (size, nearest) in [
            (65_536, 65_537),
            (1000, 997),
            (252, 251),
            (16_777_212, 16_777_213),
        ] {
            assert_eq!(
                RingSize::new(size),
                Err(RingSizeError::NotPrime { nearest })
            );
        }
    }

    #[test]
    fn hash_keys() {
        let key: HashKey = "00112233445566778899aabbccddeeff".parse().unwrap();
        assert_eq!(key.0[..3], [0x00, 0x11, 0x22]);
        for bad in [
            "",
            "0011",
            "00112233445566778899aabbccddeefg",
            "+0112233445566778899aabbccddeeff",
        ] {
            assert_eq!(bad.parse::<HashKey>(), Err(HashKeyError), "{bad}");
        }
        assert!(
            !format!("{key:?}").contains("1122"),
            "a log must not leak the key"
        );
        assert_eq!(format!("{key:x}"), "00112233445566778899aabbccddeeff");
    }

    #[test]
    fn keys_that_anyone_would_try() {
        for digits in [
            "00000000000000000000000000000000",
            "ffffffffffffffffffffffffffffffff",
            "00000000000000000000000000000001",
            "00112233445566778899aabbccddeeff",
            "ffeeddccbbaa99887766554433221100",
            "000102030405060708090a0b0c0d0e0f",
            "0123456789abcdef0123456789abcdef",
            "0123456789abcdeffedcba9876543210",
            "12345678901234567890123456789012",
            "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "deadbeefdeadbeefdeadbeefdeadbeef",
            "5ec2e70b1d9a5ec2e70b1d9a5ec2e70b",
        ] {
            let key: HashKey = digits.parse().unwrap();
            assert!(key.is_guessable(), "{digits}");
        }
        assert!(HashKey::DEFAULT.is_guessable());
        let made: HashKey = "c0a1f75e9b3344d2817f06e9ab5d20c8".parse().unwrap();
        assert!(!made.is_guessable());
    }

    proptest! {
        #[test]
        fn random_keys_are_not_guessable_and_read_back(bytes: [u8; 16]) {
            let key = HashKey(bytes);
            prop_assert!(!key.is_guessable());
            prop_assert_eq!(format!("{key:x}").parse(), Ok(key));
        }
    }
}
