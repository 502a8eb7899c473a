//! Classic pcap: a header of 24 bytes, then records (draft-ietf-opsawg-pcap §4 and §5).

use std::io::Read;
use std::time::Duration;

use super::input::Input;
use super::link::LinkType;
use super::{MAX_PACKET, Order, PcapError, Record, Resolution};

const RECORD: &str = "packet record";

/// Where the file header has its link type.
const LINK_OFFSET: u64 = 20;

/// What the file header said.
#[derive(Debug)]
pub(super) struct Classic {
    kind: Kind,
    link: LinkType,
}

/// What the magic number says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    order: Order,
    resolution: Resolution,
}

impl Classic {
    pub(super) const fn recognise(magic: [u8; 4]) -> Option<Kind> {
        let (order, resolution) = match magic {
            [0xa1, 0xb2, 0xc3, 0xd4] => (Order::Big, Resolution::Micro),
            [0xd4, 0xc3, 0xb2, 0xa1] => (Order::Little, Resolution::Micro),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Order::Big, Resolution::Nano),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Order::Little, Resolution::Nano),
            _ => return None,
        };
        Some(Kind { order, resolution })
    }

    /// Reads the header after its magic number.
    pub(super) fn open<R: Read>(kind: Kind, input: &mut Input<R>) -> Result<Self, PcapError> {
        let [major, _minor] = [input.array("file header")?, input.array("file header")?];
        let major = kind.order.u16(major);
        if major != 2 {
            return Err(PcapError::Version { offset: 4, major });
        }
        // Time zone, accuracy and snap length say nothing that is needed: all writers leave the
        // first two 0, and each record has its own length.
        let words = input.words("file header")?;
        let [_zone, _accuracy, _snap_length, network] = kind.order.u32s(&words);
        // The upper half holds the length of a frame check sequence.
        let link = LinkType::from((network & 0xffff) as u16);
        link.require_supported(LINK_OFFSET)?;
        Ok(Self { kind, link })
    }

    pub(super) fn next_record<'a, R: Read>(
        &self,
        input: &'a mut Input<R>,
    ) -> Result<Option<Record<'a>>, PcapError> {
        if !input.begin()? {
            return Ok(None);
        }
        let offset = input.start();
        let words = input.words(RECORD)?;
        let [seconds, fraction, length, original_length] = self.kind.order.u32s(&words);
        if length > MAX_PACKET {
            return Err(PcapError::PacketTooLong { offset, length });
        }
        input.fill(length, RECORD)?;
        let fraction = match self.kind.resolution {
            Resolution::Micro => Duration::from_micros(fraction.into()),
            Resolution::Nano => Duration::from_nanos(fraction.into()),
        };
        Ok(Some(Record {
            timestamp: Some(Duration::from_secs(seconds.into()) + fraction),
            resolution: self.kind.resolution,
            link: self.link,
            bytes: input.bytes(),
            original_length,
        }))
    }
}
