//! What a packet filter is made of, whoever's it is: tables, chains, rules, and what a rule looks at.
//!
//! Both readers (`nft`, `iptables`) end here, and everything is a number that can be one: an address, a
//! protocol, the bits of a conntrack state. What is not understood is kept as such, never left out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) use super::fields::{
    ClockField, Field, Header, ListenerField, Only, Operand, TcpOption,
};
use super::headers::Test;
use super::{Chance, Destination, Diversion, RuleText};

/// Bytes of a rule's text that are kept; a set in it may have a million elements.
const LONGEST_TEXT: usize = 4096;

/// Bytes of a table's or chain's name (NFT_NAME_MAXLEN).
pub(super) const LONGEST_NAME: usize = 256;

/// A rule's text, cut where it is too long to be quoted.
pub(super) fn quotable(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push_str(" …");
        text.shrink_to_fit();
    }
    text
}

/// Room for what is read: rulesets of others may be made to fill the memory.
#[derive(Debug)]
pub(super) struct Room(Cell<usize>);

impl Room {
    /// Rules, matches, and elements of sets. Blocklists have some hundred thousand elements, a busy host as
    /// many matches; a part takes up to 100 bytes.
    pub(super) const MOST_PARTS: usize = 3_000_000;

    pub(super) const fn new() -> Self {
        Self(Cell::new(Self::MOST_PARTS))
    }

    /// Takes room for so many parts; whether there was enough.
    pub(super) fn take(&self, parts: usize) -> bool {
        let left = self.0.get().checked_sub(parts);
        self.0.set(left.unwrap_or_default());
        left.is_some()
    }

    /// Why nothing more is read.
    pub(super) fn full() -> String {
        format!(
            "more than {} rules, matches and elements of sets",
            Self::MOST_PARTS
        )
    }
}

/// A table of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// `nft`, `iptables-legacy`, ….
    pub(super) program: String,
    pub(super) family: Family,
    pub(super) name: String,
    /// Whether it is switched off is not known.
    pub(super) perhaps_dormant: bool,
    /// By name.
    pub(super) chains: BTreeMap<String, Chain>,
}

/// Whose packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Ip,
    Ip6,
    Inet,
    Netdev,
}

impl Family {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Netdev => "netdev",
        }
    }

    pub(super) const fn sees(self, address: IpAddr) -> bool {
        match self {
            Self::Ip => address.is_ipv4(),
            Self::Ip6 => address.is_ipv6(),
            Self::Inet | Self::Netdev => true,
        }
    }
}

/// Rules in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where the kernel enters it; none: other chains only.
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// Where and when the kernel enters a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) hook: Hook,
    /// Looks only at the first packet of a connection (type nat).
    pub(super) nat: bool,
    /// Lower goes first.
    pub(super) priority: i64,
    /// Of two at one priority, the kernel enters the one that was added last.
    pub(super) added: usize,
    /// What the end of the chain means.
    pub(super) policy: Policy,
    /// Of ingress and egress: the devices; none: not told.
    pub(super) devices: Option<Vec<String>>,
}

/// What the end of a base chain means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) drops: bool,
    /// As its tool writes it.
    pub(super) text: String,
    pub(super) packets: Option<u64>,
}

/// A point on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Egress,
}

/// A rule: what it looks at and does, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// As its tool writes it.
    pub(super) text: String,
    pub(super) handle: Option<u64>,
    pub(super) packets: Option<u64>,
    pub(super) steps: Vec<Step>,
}

impl Rule {
    /// What it takes of [`Room`], with all its matches and elements.
    pub(super) fn parts(&self) -> usize {
        let steps = self.steps.iter().map(|step| 1 + step.size());
        2 + self.text.len() / 64 + steps.sum::<usize>()
    }
}

impl Step {
    /// What looking at it costs: the elements that are compared.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Match(condition) => condition.size(),
            Self::Dispatch(operands, elements) => operands.len() + elements.len(),
            Self::Set(..) | Self::Notrack | Self::End(_) => 1,
        }
    }
}

impl Match {
    fn size(&self) -> usize {
        match self {
            Self::Compare(operands, _, elements) => operands.len() + elements.len(),
            Self::Either(conditions) => conditions.iter().map(Self::size).sum(),
            Self::Not(condition) => condition.size(),
            Self::Headers(tests) => tests.len(),
            Self::InIpset { .. }
            | Self::Recent { .. }
            | Self::Within(_)
            | Self::Beyond(_)
            | Self::Chance(_)
            | Self::Undecidable => 1,
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// So generous that one client's flow does not reach it.
    Ample,
    /// One packet may be too much.
    Tight,
    /// Bytes that are left of a quota.
    Left(u64),
}

impl Table {
    /// Quotes a rule of this table.
    pub(super) fn quote(&self, chain: &str, rule: &Rule) -> RuleText {
        RuleText {
            program: self.program.clone(),
            family: self.family.name(),
            table: self.name.clone(),
            chain: chain.to_owned(),
            entered: chain.to_owned(),
            rule: rule.text.clone(),
            handle: rule.handle,
            packets: rule.packets,
        }
    }

    /// Quotes a chain's policy.
    pub(super) fn quote_policy(&self, chain: &str, policy: &Policy) -> RuleText {
        RuleText {
            program: self.program.clone(),
            family: self.family.name(),
            table: self.name.clone(),
            chain: chain.to_owned(),
            entered: chain.to_owned(),
            rule: policy.text.clone(),
            handle: None,
            packets: policy.packets,
        }
    }
}

/// A part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The rule goes on only if this holds.
    Match(Match),
    /// Sets a mark.
    Set(Register, Change),
    /// The packet passes conntrack by.
    Notrack,
    /// A verdict map: the key, and per element of it a verdict.
    Dispatch(Vec<Operand>, Vec<(Element, Verdict)>),
    /// The rule's verdict.
    End(Verdict),
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// The operands, concatenated, against elements.
    Compare(Vec<Operand>, Op, Arc<[Element]>),
    /// One of them holds.
    Either(Vec<Self>),
    /// It does not hold.
    Not(Box<Self>),
    /// In an ipset of that name, by source (or destination) for each of its dimensions.
    InIpset {
        name: String,
        by_source: Vec<bool>,
        negated: bool,
    },
    /// On a list of recent addresses of that name, by source or destination.
    Recent {
        name: String,
        by_source: bool,
        negated: bool,
    },
    /// By bytes of the headers; all of these hold.
    Headers(Arc<[Test]>),
    /// A rate, a number of connections or a quota that is within its bounds.
    Within(Bound),
    /// One that is beyond them.
    Beyond(Bound),
    /// Holds for some packets of a kind and not for others.
    Chance(Chance),
    /// Not decided by rules and packet: a rate, a socket's owner, an option, or nothing we know.
    Undecidable,
}

impl Match {
    /// Why one packet of a kind may match and another may not, where that is the only doubt.
    pub(super) fn chance(&self) -> Option<Chance> {
        match self {
            Self::Compare(operands, ..) => Self::chance_of(operands),
            Self::Either(conditions) => conditions.iter().find_map(Self::chance),
            Self::Not(condition) => condition.chance(),
            Self::Within(Bound::Tight) | Self::Beyond(Bound::Tight) => Some(Chance::Rate),
            Self::Chance(chance) => Some(*chance),
            Self::Within(_)
            | Self::Beyond(_)
            | Self::InIpset { .. }
            | Self::Recent { .. }
            | Self::Headers(_)
            | Self::Undecidable => None,
        }
    }
}

impl Match {
    /// The same of operands.
    pub(super) fn chance_of(operands: &[Operand]) -> Option<Chance> {
        let mut fields = operands.iter().map(|operand| operand.field);
        let chance = fields.clone().find_map(Field::chance);
        chance.filter(|_| fields.all(|field| field != Field::Opaque))
    }
}

/// How an operand is compared with elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// It is one of them.
    Is,
    /// It is none of them.
    IsNot,
    /// It has a bit of theirs.
    HasBit,
    /// It has no bit of theirs.
    HasNoBit,
}

/// As many values as the match has operands.
pub(super) type Element = Vec<Value>;

/// What an operand is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// From, to; both included.
    Range(u128, u128),
    /// A device's name; `*` at its end stands for any rest.
    Name(String),
    /// Everything.
    Any,
    /// Not understood.
    Opaque,
}

/// What rules write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Register {
    Mark,
    CtMark,
    CtZone,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// `(from & and) ^ xor`.
    Affine {
        from: Register,
        and: u32,
        xor: u32,
    },
    Opaque,
}

impl Change {
    pub(super) const fn is_from_conntrack(self) -> bool {
        matches!(
            self,
            Self::Affine {
                from: Register::CtMark,
                ..
            }
        )
    }
}

/// What a rule decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// Reject, too.
    Drop,
    /// Back to the chain that jumped here; in a base chain: its policy.
    Return,
    Continue,
    Jump(String),
    Goto(String),
    /// snat and masquerade: to this address, if it is told.
    RewriteSource(Option<IpAddr>),
    /// dnat and redirect: there, as far as it is told.
    RewriteDestination(Destination),
    /// To another socket or device.
    Divert(Diversion),
    /// To a transparent socket; without one, dropped or on to the next rule.
    Socket {
        to: Destination,
        drops_without: bool,
    },
    /// Sets a register; goes on in the rule.
    Set(Register, u32),
    /// A program decides, which may not be there.
    Queue {
        number: Option<u16>,
        bypass: bool,
    },
    /// A program decides, or nothing we know.
    Opaque,
}
