//! Whether a match holds for a packet: no, perhaps, yes.
//!
//! The packet is taken to be whole: no fragment, no extension headers, addressed to this machine on
//! the link layer. What a match would need beyond that makes it a perhaps.

use super::compare::{between, has_bit, is_element, is_rare};
use super::headers::Bytes;
use super::model::{
    Bound, Element, Field, Header, Hook, ListenerField, Match, Only, Op, Operand, Register,
    TcpOption,
};
use super::names::{
    CT_DNAT, CT_ESTABLISHED, CT_INVALID, CT_NEW, CT_SNAT, CT_UNTRACKED, ETHERTYPE_IPV4,
    ETHERTYPE_IPV6, NFPROTO_IPV4, NFPROTO_IPV6, RTN_LOCAL, RTN_UNICAST, STATUS_ASSURED,
    STATUS_DNAT, STATUS_SEEN_REPLY, address_number,
};
use super::{ConntrackState, DeviceKind, FilteredPacket, Machine};

/// An answer in three-valued logic; ordered, so that "and" is the least and "or" the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    No,
    Perhaps,
    Yes,
}

impl Truth {
    const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
            Self::Yes => Self::No,
        }
    }

    pub(super) fn known(answer: bool) -> Self {
        if answer { Self::Yes } else { Self::No }
    }
}

/// The packet as it is at one hook.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    pub(super) packet: &'a FilteredPacket,
    pub(super) machine: Machine,
    pub(super) hook: Hook,
    /// What conntrack has attached to it; none: not known.
    pub(super) state: Option<ConntrackState>,
    /// Conntrack, if it sees the packet at all, does so later.
    pub(super) before_conntrack: bool,
    pub(super) mark: Option<u32>,
    pub(super) ct_mark: Option<u32>,
    pub(super) zone: Option<u32>,
}

/// The value of an operand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// The packet has no such property.
    Absent,
    /// A number of which the bits in `known` are known.
    Number {
        value: u128,
        known: u128,
    },
    /// Any number from one to another.
    Between(u128, u128),
    /// Any number but this.
    Not(u128),
    Name(&'a str),
    Unknown,
}

impl Seen<'_> {
    pub(super) const fn number(value: u128) -> Self {
        Self::Number {
            value,
            known: u128::MAX,
        }
    }

    fn of(value: Option<impl Into<u128>>) -> Self {
        value.map_or(Self::Unknown, |value| Self::number(value.into()))
    }
}

impl Sight<'_> {
    /// Whether a match holds.
    pub(super) fn holds(&self, condition: &Match) -> Truth {
        match condition {
            Match::Compare(operands, op, elements) => self.compare(operands, *op, elements),
            Match::Either(conditions) => {
                let answers = conditions.iter().map(|condition| self.holds(condition));
                answers.max().unwrap_or(Truth::No)
            }
            Match::Not(condition) => self.holds(condition).not(),
            Match::Within(bound) => self.within(*bound),
            Match::Beyond(bound) => self.within(*bound).not(),
            Match::Headers(tests) => {
                let bytes = Bytes::of(self.packet);
                let answers = tests.iter().map(|test| bytes.meet(test));
                answers.min().unwrap_or(Truth::Yes)
            }
            Match::InIpset { .. }
            | Match::Recent { .. }
            | Match::Chance(_)
            | Match::Undecidable => Truth::Perhaps,
        }
    }

    fn within(&self, bound: Bound) -> Truth {
        match bound {
            Bound::Ample => Truth::Yes,
            Bound::Tight => Truth::Perhaps,
            Bound::Left(bytes) => Truth::known(u64::from(self.packet.length) <= bytes),
        }
    }

    /// Per element whether the operands are it; nothing for packets that lack an operand.
    pub(super) fn select<'e>(
        &self,
        operands: &[Operand],
        elements: impl Iterator<Item = &'e Element>,
    ) -> Option<Vec<Truth>> {
        let seen: Vec<_> = operands.iter().map(|operand| self.see(operand)).collect();
        if seen.contains(&Seen::Absent) {
            return None;
        }
        Some(elements.map(|element| is_element(&seen, element)).collect())
    }

    /// Whether conntrack may have an entry for the packet.
    pub(super) const fn is_tracked(&self) -> bool {
        !self.before_conntrack
            && !matches!(
                self.state,
                Some(ConntrackState::Invalid | ConntrackState::Untracked)
            )
    }

    fn compare(&self, operands: &[Operand], op: Op, elements: &[Element]) -> Truth {
        if let (Op::HasBit | Op::HasNoBit, [operand]) = (op, operands) {
            let seen = self.see(operand);
            if seen == Seen::Absent {
                return Truth::No;
            }
            let answer = has_bit(&seen, elements);
            return if op == Op::HasBit {
                answer
            } else {
                answer.not()
            };
        }
        let Some(answers) = self.select(operands, elements.iter()) else {
            return Truth::No;
        };
        if is_rare(operands, elements) {
            return Truth::known(op == Op::IsNot);
        }
        let answer = answers.into_iter().max().unwrap_or(Truth::No);
        if op == Op::IsNot {
            answer.not()
        } else {
            answer
        }
    }

    fn see(&self, operand: &Operand) -> Seen<'_> {
        if !self.has(operand.only) {
            return Seen::Absent;
        }
        let seen = self.field(operand.field);
        match (operand.mask, seen) {
            (Some(mask), Seen::Number { value, known }) => Seen::Number {
                value: value & mask,
                known: known | !mask,
            },
            (Some(mask), Seen::Unknown | Seen::Not(_) | Seen::Between(..)) => Seen::Number {
                value: 0,
                known: !mask,
            },
            (_, seen) => seen,
        }
    }

    fn has(&self, only: Only) -> bool {
        match only {
            Only::All => true,
            Only::V4 => self.packet.source.is_ipv4(),
            Only::V6 => self.packet.source.is_ipv6(),
            Only::Protocol(protocol) => self.packet.protocol == protocol,
            Only::Tracked => self.is_tracked(),
            Only::TrackedV4 => self.is_tracked() && self.packet.source.is_ipv4(),
            Only::TrackedV6 => self.is_tracked() && self.packet.source.is_ipv6(),
            Only::Ethernet => {
                let kind = self.packet.in_by.map(|device| device.hardware);
                self.has_input_device() && kind == Some(DeviceKind::ETHERNET)
            }
            Only::None => false,
        }
    }

    fn field(&self, field: Field) -> Seen<'_> {
        let packet = self.packet;
        let by_family = |v4, v6| Seen::number(if packet.source.is_ipv4() { v4 } else { v6 });
        match field {
            Field::Source => Seen::number(address_number(packet.source)),
            Field::Destination => Seen::number(address_number(packet.destination)),
            Field::Protocol => Seen::number(packet.protocol.into()),
            Field::SourcePort => self.port(|(source, _)| source),
            Field::DestinationPort => self.port(|(_, destination)| destination),
            Field::TcpFlags => Seen::of(packet.tcp_flags),
            Field::Length => Seen::number(packet.length.into()),
            Field::Fixed(value) => Seen::number(value),
            Field::Drawn { from, count } => between(from.into(), count),
            Field::Cpu => self
                .machine
                .cpus
                .map_or(Seen::Unknown, |cpus| between(0, cpus)),
            Field::Clock(field) => Seen::of(self.machine.clock.map(|clock| clock.value(field))),
            Field::Bits { of, from, count } => {
                match Bytes::of(packet).bits(of == Header::Transport, from, count) {
                    Some((value, known)) => Seen::Number { value, known },
                    None => Seen::Absent,
                }
            }
            Field::CtCount if self.machine.counts => Seen::Between(0, EARLY_BYTES),
            Field::CtCount => Seen::number(0),
            Field::Listener(field) => match (packet.listener, field) {
                (None, _) => Seen::Absent,
                (Some(socket), ListenerField::Wildcard) => Seen::number(socket.wildcard.into()),
                (Some(socket), ListenerField::Transparent) => Seen::of(socket.transparent),
            },
            Field::BridgePort => match &packet.bridge_port {
                None => Seen::Absent,
                Some(name) => name.as_deref().map_or(Seen::Unknown, Seen::Name),
            },
            Field::Dscp | Field::Ecn => Seen::number(0),
            Field::FragmentBits => Seen::Number {
                value: 0,
                known: !DONT_FRAGMENT,
            },
            Field::NetworkFamily => by_family(NFPROTO_IPV4, NFPROTO_IPV6),
            Field::EtherType => by_family(ETHERTYPE_IPV4, ETHERTYPE_IPV6),
            Field::PacketType => Seen::number(0),
            Field::InputDevice => device(self.has_input_device(), packet.iif.as_deref()),
            Field::OutputDevice => device(self.has_output_device(), packet.oif.as_deref()),
            Field::Register(Register::Mark) => Seen::of(self.mark),
            Field::Register(Register::CtMark) => Seen::of(self.ct_mark),
            Field::CtState => self.ct_state(),
            Field::CtStatus => self.ct_status(),
            Field::CtDirection => match self.state {
                Some(ConntrackState::New) => Seen::number(0),
                Some(ConntrackState::Established) => Seen::number(u128::from(packet.answers)),
                Some(ConntrackState::Invalid | ConntrackState::Untracked) | None => Seen::Unknown,
            },
            Field::CtSource { reply } => self.address(reply == packet.answers),
            Field::CtDestination { reply } => self.address(reply != packet.answers),
            Field::CtSourcePort { reply } => self.port_of(reply == packet.answers),
            Field::CtDestinationPort { reply } => self.port_of(reply != packet.answers),
            Field::CtZone => Seen::of(self.zone),
            Field::Register(Register::CtZone) => Seen::of(self.zone),
            Field::TimeToLive => Seen::Between(packet.ttl.0.into(), packet.ttl.1.into()),
            Field::TcpOption(option) => self.tcp_option(option),
            Field::LinkSource => Seen::of(packet.link_source),
            Field::LinkDestination => Seen::of(packet.link_destination),
            Field::InputKind => Seen::of(packet.in_by.map(|device| device.hardware)),
            Field::OutputKind => Seen::of(packet.out_by.map(|device| device.hardware)),
            Field::InputGroup => Seen::of(packet.in_by.map(|device| device.group)),
            Field::OutputGroup => Seen::of(packet.out_by.map(|device| device.group)),
            Field::SocketUser => owned(packet.owner.map(|(user, _)| user)),
            Field::SocketGroup => owned(packet.owner.map(|(_, group)| group)),
            Field::ReversePath { by_its_device } => self.reverse_path(by_its_device),
            Field::AddressType {
                of_source,
                on_its_device,
            } => self.address_type(of_source, on_its_device),
            Field::Opaque => Seen::Unknown,
        }
    }

    /// Protocols whose headers begin with ports are TCP and UDP here; of others, these are bytes of
    /// another meaning, which are not known.
    fn port(&self, side: impl Fn((u16, u16)) -> u16) -> Seen<'_> {
        match self.packet.protocol {
            6 | 17 => Seen::of(self.packet.ports.map(side)),
            _ => Seen::Unknown,
        }
    }

    /// Source or destination of the packet itself.
    fn address(&self, source: bool) -> Seen<'_> {
        let packet = self.packet;
        Seen::number(address_number(if source {
            packet.source
        } else {
            packet.destination
        }))
    }

    fn port_of(&self, source: bool) -> Seen<'_> {
        self.port(|(from, to)| if source { from } else { to })
    }

    /// What Linux and its likes send (`tcp_syn_options`, `tcp_synack_options`, linux/net/ipv4/tcp_output.c), over
    /// Ethernet.
    fn tcp_option(&self, option: TcpOption) -> Seen<'_> {
        const SYN: u8 = 2;
        let Some(flags) = self.packet.tcp_flags else {
            return Seen::Unknown;
        };
        let opens = flags & SYN != 0;
        let mss = if self.packet.source.is_ipv4() {
            1460
        } else {
            1440
        };
        match option {
            TcpOption::MssSize if opens => Seen::number(mss),
            TcpOption::MssSize => Seen::Absent,
            TcpOption::Mss | TcpOption::WindowScale | TcpOption::SackPermitted => {
                Seen::number(u128::from(opens))
            }
            TcpOption::Timestamp => Seen::number(1),
            TcpOption::Unusual => Seen::number(0),
        }
    }

    const fn has_input_device(&self) -> bool {
        match self.hook {
            Hook::Ingress | Hook::Prerouting | Hook::Input | Hook::Forward => true,
            Hook::Output => false,
            Hook::Postrouting | Hook::Egress => self.packet.iif.is_some(),
        }
    }

    const fn has_output_device(&self) -> bool {
        match self.hook {
            Hook::Ingress | Hook::Prerouting | Hook::Input => false,
            Hook::Forward | Hook::Output | Hook::Postrouting | Hook::Egress => true,
        }
    }

    fn ct_state(&self) -> Seen<'_> {
        let (bits, all_known) = match self.state {
            Some(ConntrackState::New) => (CT_NEW, true),
            Some(ConntrackState::Established) => (CT_ESTABLISHED, false),
            Some(ConntrackState::Invalid) => (CT_INVALID, true),
            Some(ConntrackState::Untracked) => (CT_UNTRACKED, true),
            None => return Seen::Unknown,
        };
        let known = if all_known {
            u128::MAX
        } else {
            !(CT_SNAT | CT_DNAT)
        };
        Seen::Number { value: bits, known }
    }

    /// Of a first packet, no rule has rewritten the destination: the walk ends where one does.
    fn ct_status(&self) -> Seen<'_> {
        match self.state {
            Some(ConntrackState::New) => Seen::Number {
                value: 0,
                known: STATUS_SEEN_REPLY | STATUS_ASSURED | STATUS_DNAT,
            },
            Some(ConntrackState::Established) => Seen::Number {
                value: STATUS_SEEN_REPLY,
                known: STATUS_SEEN_REPLY,
            },
            Some(ConntrackState::Invalid | ConntrackState::Untracked) | None => Seen::Unknown,
        }
    }

    /// The kernel's own answer for packets from `lo` is yes, without a look at the routes.
    fn reverse_path(&self, by_its_device: bool) -> Seen<'_> {
        if self.packet.iif.as_deref() == Some("lo") {
            return Seen::number(1);
        }
        let found = if by_its_device {
            self.packet.reverse_path_found
        } else {
            self.packet.source_is_routable
        };
        Seen::of(found)
    }

    fn address_type(&self, of_source: bool, on_its_device: bool) -> Seen<'_> {
        let local = if of_source {
            self.packet.source_is_local
        } else {
            self.packet.destination_is_local
        };
        match local {
            Some(true) if !on_its_device => Seen::number(RTN_LOCAL),
            Some(true) if of_source => Seen::Unknown,
            Some(true) => match self.packet.destination_is_on_device {
                Some(true) => Seen::number(RTN_LOCAL),
                // What is found by another device counts as anything (`__inet_dev_addr_type`, fib_frontend.c).
                Some(false) => Seen::number(RTN_UNICAST),
                None => Seen::Unknown,
            },
            Some(false) if self.packet.source.is_ipv4() => Seen::number(RTN_UNICAST),
            Some(false) => Seen::Not(RTN_LOCAL),
            None => Seen::Unknown,
        }
    }
}

/// IP_DF, RFC 791, 3.1.
const DONT_FRAGMENT: u128 = 0x4000;

/// What no socket sends has no owner; nft's match then does not hold, whatever it compares.
fn owned<'a>(owner: Option<Option<u32>>) -> Seen<'a> {
    match owner {
        None => Seen::Absent,
        Some(id) => Seen::of(id),
    }
}

fn device(exists: bool, name: Option<&str>) -> Seen<'_> {
    if exists {
        name.map_or(Seen::Unknown, Seen::Name)
    } else {
        Seen::Name("")
    }
}

/// What a connection has carried while it is young, at most.
const EARLY_BYTES: u128 = 2000;
