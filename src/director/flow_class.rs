//! The life of a flow: which packets move it on, and how long it lives without one.

use std::time::Duration;

use super::spec::FlowTimeouts;
use super::time::Timestamp;
use crate::packet::TcpFlags;

/// What a packet says of its flow's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEvent {
    /// A TCP segment with these flags.
    Tcp(TcpFlags),
    /// A UDP datagram.
    Udp,
}

impl FlowEvent {
    /// Whether it is a SYN that opens a connection.
    pub(super) const fn opens(self) -> bool {
        matches!(self, Self::Tcp(flags) if flags.opens)
    }

    /// Whether it is a RST.
    pub(super) const fn resets(self) -> bool {
        matches!(self, Self::Tcp(flags) if flags.rst)
    }
}

/// The life of a flow as one side of it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowClass {
    /// TCP of which one packet was seen, or only SYNs.
    HalfOpen,
    /// UDP of which one packet was seen.
    FirstDatagram,
    /// TCP with more than a SYN.
    Established,
    /// TCP after a FIN of the client.
    Closing,
    /// TCP after a RST of the client.
    Reset,
    /// UDP with more than one packet.
    Udp,
}

impl FlowClass {
    pub(super) const COUNT: usize = 6;

    /// Every class, in the order of the outputs.
    pub const ALL: [Self; Self::COUNT] = [
        Self::HalfOpen,
        Self::FirstDatagram,
        Self::Established,
        Self::Closing,
        Self::Reset,
        Self::Udp,
    ];

    /// The name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::FirstDatagram => "first_datagram",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
            Self::Udp => "udp",
        }
    }

    /// How long a flow of it lives without a packet.
    #[must_use]
    pub const fn timeout(self, timeouts: &FlowTimeouts) -> Duration {
        match self {
            Self::HalfOpen => timeouts.half_open,
            Self::FirstDatagram | Self::Udp => timeouts.udp,
            Self::Established => timeouts.established,
            Self::Closing => timeouts.closing,
            Self::Reset => timeouts.reset,
        }
    }

    /// The class of a flow's first packet. It has a bounded part of the table.
    pub(super) const fn first(event: FlowEvent) -> Self {
        match event {
            FlowEvent::Tcp(_) => Self::HalfOpen,
            FlowEvent::Udp => Self::FirstDatagram,
        }
    }

    /// The class after another packet of the flow.
    pub(super) const fn after(self, event: FlowEvent) -> Self {
        match event {
            FlowEvent::Udp => Self::Udp,
            FlowEvent::Tcp(flags) if flags.rst => Self::Reset,
            FlowEvent::Tcp(flags) if flags.fin => Self::Closing,
            FlowEvent::Tcp(flags) if flags.opens => self,
            FlowEvent::Tcp(_) => match self {
                Self::Closing | Self::Reset => self,
                Self::HalfOpen | Self::FirstDatagram | Self::Established | Self::Udp => {
                    Self::Established
                }
            },
        }
    }

    pub(super) const fn is_closed(self) -> bool {
        matches!(self, Self::Closing | Self::Reset)
    }

    /// In the order in which a full table gives classes up for a flow of the class `self`: what is
    /// closed, its like, and only then what may still be in use.
    pub(super) const fn victims(self) -> [Self; Self::COUNT] {
        let (own, other) = if matches!(self, Self::FirstDatagram) {
            (Self::FirstDatagram, Self::HalfOpen)
        } else {
            (Self::HalfOpen, Self::FirstDatagram)
        };
        [
            Self::Reset,
            Self::Closing,
            own,
            other,
            Self::Udp,
            Self::Established,
        ]
    }
}

/// A moment as entries keep it: sixteenths of a second since the caller's epoch.
///
/// Saturates after 8.5 years, from when nothing ages and a full table gives up what was filed
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick(u32);

impl Tick {
    const NANOS: u64 = 1_000_000_000 / 16;

    /// The last tick not after `now`.
    pub(super) fn at(now: Timestamp) -> Self {
        Self(u32::try_from(now.as_nanos() / Self::NANOS).unwrap_or(u32::MAX))
    }

    /// How long so many ticks are.
    pub(super) fn duration(ticks: u32) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::from(ticks) * Self::NANOS)
    }

    /// Ticks from `earlier` to `self`; zero where `earlier` is later.
    pub(super) const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Idle timeouts in ticks, by class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts([u32; FlowClass::COUNT]);

impl Timeouts {
    /// An entry used since it was filed is filed anew after one in this many parts of its timeout.
    const FILINGS: u32 = 64;

    pub(super) fn new(timeouts: &FlowTimeouts) -> Self {
        Self(FlowClass::ALL.map(|class| {
            let timeout = class.timeout(timeouts);
            u32::try_from(timeout.as_nanos().div_ceil(Tick::NANOS.into())).unwrap_or(u32::MAX)
        }))
    }

    /// Whether an entry of `class` that was `idle` for so many ticks is no more.
    pub(super) const fn is_over(&self, class: FlowClass, idle: u32) -> bool {
        idle >= self.0[class as usize]
    }

    /// Whether an entry of `class` filed so many ticks ago should be filed anew when used.
    pub(super) const fn is_misfiled(&self, class: FlowClass, filed: u32) -> bool {
        filed > self.0[class as usize] / Self::FILINGS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks() {
        let tick = |nanos| Tick::at(Timestamp::after(Duration::from_nanos(nanos)));
        assert_eq!(tick(0), Tick(0));
        assert_eq!(tick(62_499_999), Tick(0));
        assert_eq!(tick(62_500_000), Tick(1));
        assert_eq!(tick(10_000_000_000), Tick(160));
        assert_eq!(Tick::at(Timestamp::END), Tick(u32::MAX));
        assert_eq!(Tick(3).since(Tick(5)), 0);
    }

    #[test]
    fn timeouts_in_ticks() {
        let timeouts = Timeouts::new(&FlowTimeouts {
            half_open: Duration::from_millis(1001),
            ..FlowTimeouts::default()
        });
        assert_eq!(timeouts.0, [17, 960, 14_400, 960, 160, 960]);
        assert!(!timeouts.is_over(FlowClass::Reset, 159));
        assert!(timeouts.is_over(FlowClass::Reset, 160));
        assert!(!timeouts.is_misfiled(FlowClass::Reset, 2));
        assert!(timeouts.is_misfiled(FlowClass::Reset, 3));
    }

    #[test]
    fn classes_are_numbered_in_their_order() {
        for (number, class) in FlowClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
    }
}
