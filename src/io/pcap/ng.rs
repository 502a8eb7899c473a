//! pcapng: sections of blocks, each packet from one of the section's interfaces
//! (draft-ietf-opsawg-pcapng §4). Blocks without packets are passed over.

use std::io::Read;
use std::time::Duration;

use super::input::Input;
use super::link::LinkType;
use super::{MAX_PACKET, Order, PcapError, Record, Resolution};

/// The block type of a section header, the same in both byte orders.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Type and length before a block's body, the length again after it; in bytes.
const FRAME: u32 = 12;
/// Packet blocks begin with as many bytes before the packet.
const PACKET_HEAD: u32 = 20;
/// Interfaces of a section: a flood of descriptions must not grow memory.
const MAX_INTERFACES: usize = 65_536;
/// The longest interface description in bytes; real ones take a few hundred.
const MAX_DESCRIPTION: u32 = 65_536;

const BLOCK: &str = "block";

/// The section that is being read.
#[derive(Debug)]
pub(super) struct Ng {
    order: Order,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link: LinkType,
    /// 0 where packets were not cut.
    snap_length: u32,
    clock: Clock,
}

/// A packet block up to the packet.
struct Head {
    timestamp: Option<u64>,
    interface: u32,
    captured: u32,
    original: u32,
}

impl Ng {
    /// Reads the first section header after its block type.
    pub(super) fn open<R: Read>(input: &mut Input<R>) -> Result<Self, PcapError> {
        let order = section(input)?;
        let interfaces = Vec::new();
        Ok(Self { order, interfaces })
    }

    pub(super) fn next_record<'a, R: Read>(
        &mut self,
        input: &'a mut Input<R>,
    ) -> Result<Option<Record<'a>>, PcapError> {
        while input.begin()? {
            let kind: [u8; 4] = input.array(BLOCK)?;
            if kind == SECTION_HEADER {
                self.order = section(input)?;
                self.interfaces.clear();
                continue;
            }
            let length = self.order.u32(input.array(BLOCK)?);
            let body = body_length(length, input.start())?;
            match self.order.u32(kind) {
                INTERFACE_DESCRIPTION => self.describe(body, input)?,
                ENHANCED_PACKET => return self.enhanced(body, input).map(Some),
                OBSOLETE_PACKET => return self.obsolete(body, input).map(Some),
                SIMPLE_PACKET => return self.simple(body, input).map(Some),
                _ => {
                    input.skip(body, BLOCK)?;
                    end(length, self.order, input)?;
                }
            }
        }
        Ok(None)
    }

    fn describe<R: Read>(&mut self, body: u32, input: &mut Input<R>) -> Result<(), PcapError> {
        let offset = input.start();
        if !(8..=MAX_DESCRIPTION).contains(&body) {
            return Err(block_length(body, offset));
        }
        if self.interfaces.len() == MAX_INTERFACES {
            let max = MAX_INTERFACES;
            return Err(PcapError::TooManyInterfaces { offset, max });
        }
        let link = self.order.u16(input.array(BLOCK)?);
        input.skip(2, BLOCK)?;
        let snap_length = self.order.u32(input.array(BLOCK)?);
        input.fill(body - 8, BLOCK)?;
        self.interfaces.push(Interface {
            link: LinkType::from(link),
            snap_length,
            clock: Clock::from_options(input.bytes(), self.order),
        });
        end(body + FRAME, self.order, input)
    }

    fn enhanced<'a, R: Read>(
        &self,
        body: u32,
        input: &'a mut Input<R>,
    ) -> Result<Record<'a>, PcapError> {
        require(body, PACKET_HEAD, input.start())?;
        let words = input.words(BLOCK)?;
        let [interface, high, low, captured, original] = self.order.u32s(&words);
        let head = Head {
            timestamp: Some(u64::from(high) << 32 | u64::from(low)),
            interface,
            captured,
            original,
        };
        self.packet(&head, body, PACKET_HEAD, input)
    }

    fn obsolete<'a, R: Read>(
        &self,
        body: u32,
        input: &'a mut Input<R>,
    ) -> Result<Record<'a>, PcapError> {
        require(body, PACKET_HEAD, input.start())?;
        let interface = self.order.u16(input.array(BLOCK)?);
        input.skip(2, BLOCK)?; // how many packets were lost before
        let words = input.words(BLOCK)?;
        let [high, low, captured, original] = self.order.u32s(&words);
        let head = Head {
            timestamp: Some(u64::from(high) << 32 | u64::from(low)),
            interface: interface.into(),
            captured,
            original,
        };
        self.packet(&head, body, PACKET_HEAD, input)
    }

    /// A simple packet is the first interface's, has no timestamp, and was cut to the snap length.
    fn simple<'a, R: Read>(
        &self,
        body: u32,
        input: &'a mut Input<R>,
    ) -> Result<Record<'a>, PcapError> {
        require(body, 4, input.start())?;
        let original = self.order.u32(input.array(BLOCK)?);
        let captured = match self.interfaces.first() {
            Some(first) if first.snap_length > 0 => original.min(first.snap_length),
            Some(_) | None => original,
        };
        let head = Head {
            timestamp: None,
            interface: 0,
            captured,
            original,
        };
        self.packet(&head, body, 4, input)
    }

    /// Reads the packet itself and the rest of its block; `before` bytes of the body are read.
    fn packet<'a, R: Read>(
        &self,
        head: &Head,
        body: u32,
        before: u32,
        input: &'a mut Input<R>,
    ) -> Result<Record<'a>, PcapError> {
        let offset = input.start();
        let number = head.interface;
        let position = usize::try_from(number).ok();
        let interface = position.and_then(|position| self.interfaces.get(position));
        let interface = interface.ok_or(PcapError::Interface {
            offset,
            interface: number,
        })?;
        interface.link.require_supported(offset)?;
        let length = head.captured;
        if length > MAX_PACKET {
            return Err(PcapError::PacketTooLong { offset, length });
        }
        let rest = (body - before).checked_sub(length);
        let rest = rest.ok_or(block_length(body, offset))?;
        input.fill(length, BLOCK)?;
        input.skip(rest, BLOCK)?;
        end(body + FRAME, self.order, input)?;
        Ok(Record {
            timestamp: head.timestamp.map(|ticks| interface.clock.time(ticks)),
            resolution: interface.clock.resolution(),
            link: interface.link,
            bytes: input.bytes(),
            original_length: head.original,
        })
    }
}

/// Reads a section header after its block type: the byte order of what follows.
fn section<R: Read>(input: &mut Input<R>) -> Result<Order, PcapError> {
    let length: [u8; 4] = input.array(BLOCK)?;
    let offset = input.start();
    let order = match input.array(BLOCK)? {
        [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
        [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
        _ => return Err(PcapError::ByteOrder { offset }),
    };
    let length = order.u32(length);
    let body = body_length(length, offset)?;
    require(body, 16, offset)?;
    let major = order.u16(input.array(BLOCK)?);
    if major != 1 {
        let offset = offset + 12;
        return Err(PcapError::Version { offset, major });
    }
    // The minor version, the section's length, options.
    input.skip(body - 6, BLOCK)?;
    end(length, order, input)?;
    Ok(order)
}

fn body_length(length: u32, offset: u64) -> Result<u32, PcapError> {
    let body = length
        .checked_sub(FRAME)
        .filter(|_| length.is_multiple_of(4));
    body.ok_or(PcapError::BlockLength { offset, length })
}

fn require(body: u32, least: u32, offset: u64) -> Result<(), PcapError> {
    if body < least {
        return Err(block_length(body, offset));
    }
    Ok(())
}

/// `body` is of a block whose length was checked, so this does not overflow.
const fn block_length(body: u32, offset: u64) -> PcapError {
    PcapError::BlockLength {
        offset,
        length: body.saturating_add(FRAME),
    }
}

/// The block's length stands again at its end; another there means that a length is damaged.
fn end<R: Read>(length: u32, order: Order, input: &mut Input<R>) -> Result<(), PcapError> {
    let again = order.u32(input.array(BLOCK)?);
    if again != length {
        let offset = input.start();
        return Err(PcapError::BlockLength {
            offset,
            length: again,
        });
    }
    Ok(())
}

/// How an interface counts time (options `if_tsresol` and `if_tsoffset`, §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clock {
    /// The negative power of 10, or of 2 where the highest bit is set.
    resolution: u8,
    /// Seconds to add.
    offset: i64,
}

impl Clock {
    const POWER_OF_TWO: u8 = 0x80;

    fn from_options(mut options: &[u8], order: Order) -> Self {
        let mut clock = Self {
            resolution: 6,
            offset: 0,
        };
        while let Some((&[a, b, c, d], rest)) = options.split_first_chunk() {
            let length = usize::from(order.u16([c, d]));
            let Some(value) = rest.get(..length) else {
                break;
            };
            match (order.u16([a, b]), value) {
                (0, _) => break,
                (9, &[resolution]) => clock.resolution = resolution,
                (14, &[a, b, c, d, e, f, g, h]) => {
                    let bytes = [a, b, c, d, e, f, g, h];
                    clock.offset = match order {
                        Order::Big => i64::from_be_bytes(bytes),
                        Order::Little => i64::from_le_bytes(bytes),
                    };
                }
                _ => {}
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        clock
    }

    const fn resolution(self) -> Resolution {
        if self.resolution <= 6 {
            Resolution::Micro
        } else {
            Resolution::Nano
        }
    }

    /// The time since 1970; before it is 1970.
    fn time(self, ticks: u64) -> Duration {
        const NANOS: u128 = 1_000_000_000;
        let nanos = u128::from(ticks) * NANOS;
        let power = u32::from(self.resolution & !Self::POWER_OF_TWO);
        let nanos = if self.resolution & Self::POWER_OF_TWO == 0 {
            10u128.checked_pow(power).map_or(0, |unit| nanos / unit)
        } else {
            nanos >> power
        };
        let seconds = i128::try_from(nanos / NANOS).unwrap_or(i128::MAX);
        let seconds = seconds.saturating_add(self.offset.into()).max(0);
        let subsecond = u32::try_from(nanos % NANOS).unwrap_or_default();
        Duration::new(u64::try_from(seconds).unwrap_or(u64::MAX), subsecond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        let time = |resolution, offset, ticks| Clock { resolution, offset }.time(ticks);
        assert_eq!(time(6, 0, 1_500_000), Duration::from_millis(1500));
        assert_eq!(time(9, 0, 1_500_000_001), Duration::new(1, 500_000_001));
        assert_eq!(time(0, 0, 7), Duration::from_secs(7));
        assert_eq!(time(0x80 | 10, 0, 1536), Duration::from_millis(1500));
        assert_eq!(time(3, 100, 1), Duration::new(100, 1_000_000));
        assert_eq!(time(0, -100, 7), Duration::ZERO);
        assert_eq!(time(39, 0, u64::MAX), Duration::ZERO);
        assert_eq!(time(0xff, i64::MIN, u64::MAX), Duration::ZERO);
        assert_eq!(time(0, i64::MAX, u64::MAX), Duration::from_secs(u64::MAX));
    }

    #[test]
    fn options() {
        let clock = |bytes: &[u8]| {
            let Clock { resolution, offset } = Clock::from_options(bytes, Order::Big);
            (resolution, offset)
        };
        let name = [0, 2, 0, 3, b'e', b't', b'h', 0];
        let resolution = [0, 9, 0, 1, 9, 0, 0, 0];
        let shift = [0, 14, 0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let end = [0; 4];
        assert_eq!(clock(&[]), (6, 0));
        assert_eq!(clock(&[&name[..], &resolution].concat()), (9, 0));
        assert_eq!(clock(&[&shift[..], &resolution].concat()), (9, -1));
        assert_eq!(clock(&[&end[..], &resolution].concat()), (6, 0));
        assert_eq!(clock(&resolution[..4]), (6, 0), "cut");
        assert_eq!(clock(&[0, 9, 0, 2, 9, 9]), (6, 0), "a wrong length");
    }
}
