//! What rules look at: the properties of packets, connections, devices and sockets that are understood.

use super::Chance;
use super::model::Register;

/// A property of the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operand {
    pub(super) field: Field,
    /// The packets that have it.
    pub(super) only: Only,
    /// Bits of it that count.
    pub(super) mask: Option<u128>,
}

impl Operand {
    /// A property of every packet.
    pub(super) const fn of(field: Field) -> Self {
        Self {
            field,
            only: Only::All,
            mask: None,
        }
    }

    pub(super) const fn only(self, only: Only) -> Self {
        Self { only, ..self }
    }

    pub(super) const fn masked(self, mask: u128) -> Self {
        Self {
            mask: Some(mask),
            ..self
        }
    }
}

/// Which packets have a property; a match on it never holds for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Only {
    All,
    V4,
    V6,
    /// Those of a protocol.
    Protocol(u8),
    /// Those that conntrack has seen.
    Tracked,
    /// Of these those of a family.
    TrackedV4,
    TrackedV6,
    /// Those that came in by Ethernet.
    Ethernet,
    None,
}

/// Properties that are understood, and [`Field::Opaque`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Field {
    Source,
    Destination,
    Protocol,
    SourcePort,
    DestinationPort,
    TcpFlags,
    /// With the IP header.
    Length,
    /// Always a constant for the packets that are judged.
    Fixed(u128),
    /// One of so many numbers from the first one on, another one for each packet or flow.
    Drawn {
        from: u32,
        count: u32,
    },
    /// Of the moment.
    Clock(ClockField),
    /// The CPU that sees the packet.
    Cpu,
    /// Bits of a header, by their number from its start, and how many.
    Bits {
        of: Header,
        from: u32,
        count: u32,
    },
    /// Packets or bytes that the connection has carried.
    CtCount,
    /// The listening socket that the packet is for: whether it hears all addresses, whether it is a transparent one.
    Listener(ListenerField),
    /// The port of a bridge that it came in by.
    BridgePort,
    /// Of the traffic class: nothing of ours sets either.
    Dscp,
    Ecn,
    /// TTL or hop limit.
    TimeToLive,
    /// A TCP option: its size where the rule asks for that, else whether it is there.
    TcpOption(TcpOption),
    /// Link-layer addresses.
    LinkSource,
    LinkDestination,
    /// ARPHRD_* of a device.
    InputKind,
    OutputKind,
    /// Groups of devices (`ip link set … group`).
    InputGroup,
    OutputGroup,
    /// Owner of the socket that the packet is sent by.
    SocketUser,
    SocketGroup,
    /// What conntrack has of the connection.
    CtSource {
        reply: bool,
    },
    CtDestination {
        reply: bool,
    },
    CtSourcePort {
        reply: bool,
    },
    CtDestinationPort {
        reply: bool,
    },
    CtZone,
    /// Flags and offset of an IPv4 packet that is no fragment.
    FragmentBits,
    /// NFPROTO_IPV4 or NFPROTO_IPV6.
    NetworkFamily,
    EtherType,
    /// PACKET_*: the packets that are judged are addressed to this host or come from it.
    PacketType,
    InputDevice,
    OutputDevice,
    Register(Register),
    /// Bits of `IP_CT_*`, and those of `names::CT_SNAT`.
    CtState,
    /// Bits of `IPS_*`.
    CtStatus,
    /// 0: original, 1: reply.
    CtDirection,
    /// Whether the FIB knows a way to the source: 0, 1.
    ReversePath {
        /// By the device that the packet came in by.
        by_its_device: bool,
    },
    /// RTN_* of an address.
    AddressType {
        of_source: bool,
        /// Only addresses of the packet's device count as local.
        on_its_device: bool,
    },
    /// Not known from rules and packet, or nothing we know.
    Opaque,
}

impl Field {
    pub(super) const fn chance(self) -> Option<Chance> {
        if matches!(self, Self::Drawn { .. } | Self::Cpu) {
            Some(Chance::Draw)
        } else if matches!(self, Self::Clock(_)) {
            Some(Chance::Time)
        } else {
            None
        }
    }
}

/// What rules ask of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ClockField {
    /// Seconds since midnight: of the machine's time zone, or UTC.
    SecondOfDay {
        utc: bool,
    },
    /// Sunday is 0.
    Weekday {
        utc: bool,
    },
    DayOfMonth {
        utc: bool,
    },
    /// Seconds since 1970, of UTC; with the time zone's offset added unless `utc`.
    Seconds {
        utc: bool,
    },
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Header {
    Network,
    Transport,
}

/// What rules ask of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ListenerField {
    Wildcard,
    Transparent,
}

/// Options of TCP (IANA's TCP option kinds) that packets of our kernels have, and those they do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TcpOption {
    /// The value of it, in bytes.
    MssSize,
    Mss,
    WindowScale,
    SackPermitted,
    Timestamp,
    /// Nothing that our kernels send by themselves.
    Unusual,
}
