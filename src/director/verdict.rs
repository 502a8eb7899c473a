//! What becomes of a packet.

use super::indices::BackendIndex;
use crate::packet::{Entropy, Meta, Outgoing, Piece};

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to a backend, once encapsulated.
    Forward(Forward),
    /// The director answers its sender ([`replies`](super::Director::replies)).
    Reply(ReplyRange),
    /// It waits: a fragment for its datagram's first one or for the rest of an echo request, or a packet for
    /// another worker's [`Answer`](super::Answer).
    Hold,
    /// It goes nowhere; already counted.
    Drop(DropReason),
}

/// Which packets among the answers of a burst are the answer to one of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyRange {
    pub(super) first: usize,
    pub(super) end: usize,
}

/// A packet on its way to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where it goes.
    pub backend: BackendIndex,
    /// What the outer header copies of it.
    pub meta: Meta,
    /// What differs in the outer header from packet to packet.
    pub entropy: Entropy,
}

impl Forward {
    /// The packet in `frame` of a burst, as an egress takes it.
    #[must_use]
    pub const fn outgoing(&self, frame: usize) -> Outgoing {
        Outgoing {
            frame,
            piece: Piece::Whole,
            tunnel: self.backend.tunnel(),
            meta: self.meta,
            entropy: self.entropy,
        }
    }
}

/// Where the packets of a flow go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The backend.
    pub backend: BackendIndex,
    /// The flow's hash, from which the outer header takes its entropy; 0 where it takes none.
    pub flow_hash: u64,
}

/// Why a packet was dropped. The names are the same in every output; the numbers are those of counters that
/// other programs share, so none is ever given anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Its headers do not fit its bytes.
    Malformed = 0,
    /// No VIP has its destination address, port and protocol.
    NoVip = 1,
    /// Its VIP has no backend that takes flows.
    NoBackend = 2,
    /// Addressed to a VIP, but nothing that is balanced.
    UnsupportedProtocol = 3,
    /// A fragment whose datagram's first one, or the rest of its echo request, did not come in time.
    FragmentTimeout = 4,
    /// A fragment that had to wait where no room is left.
    FragmentTableFull = 5,
    /// An ICMP error for a VIP about nothing that can be found.
    IcmpNoFlow = 6,
    /// Too long once encapsulated, or for the path to its backend.
    TooBig = 7,
    /// An answer was due, but too many were sent already.
    RateLimited = 8,
    /// The kernel did not take the outer packet.
    SendFailed = 9,
    /// A late reset of this host's own, of a probe that is over.
    ProbeReset = 10,
}

impl DropReason {
    /// Every reason, in the order of the outputs.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::NoVip,
        Self::NoBackend,
        Self::UnsupportedProtocol,
        Self::FragmentTimeout,
        Self::FragmentTableFull,
        Self::IcmpNoFlow,
        Self::TooBig,
        Self::RateLimited,
        Self::SendFailed,
        Self::ProbeReset,
    ];

    /// The number of its counter wherever drops are counted.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoVip => "no_vip",
            Self::NoBackend => "no_backend",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::FragmentTimeout => "fragment_timeout",
            Self::FragmentTableFull => "fragment_table_full",
            Self::IcmpNoFlow => "icmp_no_flow",
            Self::TooBig => "too_big",
            Self::RateLimited => "rate_limited",
            Self::SendFailed => "send_failed",
            Self::ProbeReset => "probe_reset",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters of other programs have these numbers: an added reason gets the next one.
    #[test]
    fn reasons_are_numbered_for_good() {
        let numbered = [
            (0, "malformed"),
            (1, "no_vip"),
            (2, "no_backend"),
            (3, "unsupported_protocol"),
            (4, "fragment_timeout"),
            (5, "fragment_table_full"),
            (6, "icmp_no_flow"),
            (7, "too_big"),
            (8, "rate_limited"),
            (9, "send_failed"),
            (10, "probe_reset"),
        ];
        let found = DropReason::ALL.map(|reason| (reason.number(), reason.name()));
        assert_eq!(found, numbered);
    }
}
